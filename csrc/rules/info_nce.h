// e^{slope c - shift} for negatives; log(1 + e^{row - slope c}) for positives, row the log-sum-exp of their
// anchor's negatives, and the sigmoid, its derivative by the row: NT-Xent and N-pairs.
#pragma once

#include "rules/terms.h"

namespace fastdml {

template <typename T> struct InfoNCE {
  static constexpr bool reads_least = false;
  static constexpr T ln2 = T(0.693147180559945309417232);

  T scale, offset;

  FASTDML_HD static InfoNCE from_constants(const double *c) { return {T(c[0]), T(c[1])}; }

  template <typename Math> FASTDML_HD Pair<T> negative_terms(T c, T, const Math &math) const {
    return {math.exp2(c * scale - offset), T(0)};
  }
  template <typename Math> FASTDML_HD T negative_weight(T c, T, const Math &math) const {
    return math.exp2(c * scale - offset) * (scale * ln2);
  }
  // -inf, which the positives take, where there is no negative.
  template <typename Math> FASTDML_HD T positive_row(T, T, T, T negative_sum, const Math &math) const {
    return math.log(negative_sum) + offset * ln2;
  }
  template <typename Math> FASTDML_HD Pair<T> positive_terms(T c, T row, const Math &math) const {
    return softplus_and_sigmoid(row - c * (scale * ln2), math);
  }
  template <typename Math> FASTDML_HD Pair<T> positive_weights(T c, T row, const Math &math) const {
    return {-(scale * ln2) * softplus_and_sigmoid(row - c * (scale * ln2), math).second, T(0)};
  }
};

} // namespace fastdml
