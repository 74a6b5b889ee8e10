// e^{slope c + bias - shift} on either side: Multi-Similarity, both lifted structures, SupCon.
#pragma once

#include "rules/terms.h"

namespace fastdml {

template <typename T> struct Exponential {
  static constexpr bool reads_least = false;
  static constexpr T ln2 = T(0.693147180559945309417232);

  T negative_scale, negative_offset, positive_scale, positive_offset;

  FASTDML_HD static Exponential from_constants(const double *c) {
    return {T(c[0]), T(c[1]), T(c[3]), T(c[4])};
  }

  template <typename Math> FASTDML_HD Pair<T> negative_terms(T c, T, const Math &math) const {
    return {math.exp2(c * negative_scale - negative_offset), T(0)};
  }
  template <typename Math> FASTDML_HD T negative_weight(T c, T, const Math &math) const {
    return math.exp2(c * negative_scale - negative_offset) * (negative_scale * ln2);
  }
  template <typename Math> FASTDML_HD T positive_row(T row, T, T, T, const Math &) const { return row; }
  template <typename Math> FASTDML_HD Pair<T> positive_terms(T c, T, const Math &math) const {
    return {math.exp2(c * positive_scale - positive_offset), c};
  }
  template <typename Math> FASTDML_HD Pair<T> positive_weights(T c, T, const Math &math) const {
    return {math.exp2(c * positive_scale - positive_offset) * (positive_scale * ln2), T(1)};
  }
};

} // namespace fastdml
