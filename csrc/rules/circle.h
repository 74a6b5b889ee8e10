// e^{gamma [c + m]_+ (c - m) - shift} for negatives, e^{-gamma [1 + m - c]_+ (c - 1 + m) - row} for
// positives, the factors in brackets constants to the gradient: circle loss (CVPR 2020, arXiv 2002.10857).
#pragma once

#include "rules/terms.h"

namespace fastdml {

template <typename T> struct Circle {
  static constexpr bool reads_least = true;

  T gamma, m, negative_shift;

  FASTDML_HD static Circle from_constants(const double *c) { return {T(c[0]), T(c[1]), T(c[2])}; }

  template <typename Math> FASTDML_HD Pair<T> negative_terms(T c, T, const Math &math) const {
    return {math.exp(negative_factor(c) * (c - m) - negative_shift), T(0)};
  }
  template <typename Math> FASTDML_HD T negative_weight(T c, T, const Math &math) const {
    const T factor = negative_factor(c);
    return factor * math.exp(factor * (c - m) - negative_shift);
  }
  // The largest exponent of the positives, which is that of the least close one.
  template <typename Math> FASTDML_HD T positive_row(T, T least, T, T, const Math &) const {
    const T c = least < T(-1) ? T(-1) : least > T(1) ? T(1) : least;
    return positive_exponent(c);
  }
  template <typename Math> FASTDML_HD Pair<T> positive_terms(T c, T row, const Math &math) const {
    return {math.exp(below(positive_exponent(c), row)), T(0)};
  }
  template <typename Math> FASTDML_HD Pair<T> positive_weights(T c, T row, const Math &math) const {
    return {positive_factor(c) * math.exp(below(positive_exponent(c), row)), T(0)};
  }

private:
  FASTDML_HD T negative_factor(T c) const { return gamma * (c + m > T(0) ? c + m : T(0)); }
  FASTDML_HD T positive_factor(T c) const {
    const T slack = T(1) + m - c;
    return -gamma * (slack > T(0) ? slack : T(0));
  }
  FASTDML_HD T positive_exponent(T c) const { return positive_factor(c) * (c - (T(1) - m)); }
  // Exactly 0 for the least close positive: the minimum keeps the product from being fused with the
  // subtraction, which would round it otherwise than the row, and otherwise in one loop than in another.
  FASTDML_HD static T below(T exponent, T row) { return (exponent < row ? exponent : row) - row; }
};

} // namespace fastdml
