// log(1 + e^{slope c + bias}) on either side: binomial deviance.
#pragma once

#include "rules/terms.h"

namespace fastdml {

template <typename T> struct Softplus {
  static constexpr bool reads_least = false;

  T negative_slope, negative_bias, positive_slope, positive_bias;

  FASTDML_HD static Softplus from_constants(const double *c) { return {T(c[0]), T(c[1]), T(c[2]), T(c[3])}; }

  template <typename Math> FASTDML_HD Pair<T> negative_terms(T c, T, const Math &math) const {
    return {softplus_and_sigmoid(c * negative_slope + negative_bias, math).first, T(0)};
  }
  template <typename Math> FASTDML_HD T negative_weight(T c, T, const Math &math) const {
    return negative_slope * softplus_and_sigmoid(c * negative_slope + negative_bias, math).second;
  }
  template <typename Math> FASTDML_HD T positive_row(T row, T, T, T, const Math &) const { return row; }
  template <typename Math> FASTDML_HD Pair<T> positive_terms(T c, T, const Math &math) const {
    return {softplus_and_sigmoid(c * positive_slope + positive_bias, math).first, T(0)};
  }
  template <typename Math> FASTDML_HD Pair<T> positive_weights(T c, T, const Math &math) const {
    return {positive_slope * softplus_and_sigmoid(c * positive_slope + positive_bias, math).second, T(0)};
  }
};

} // namespace fastdml
