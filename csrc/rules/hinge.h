// [c + bias - row]_+ for negatives and [bias - c + row]_+ for positives, summed and counted where strictly
// between low and high: the contrastive and the margin loss.
#pragma once

#include "rules/terms.h"

namespace fastdml {

template <typename T> struct Hinge {
  static constexpr bool reads_least = false;

  T negative_bias, positive_bias, low, high;

  FASTDML_HD static Hinge from_constants(const double *c) { return {T(c[0]), T(c[1]), T(c[2]), T(c[3])}; }

  template <typename Math> FASTDML_HD Pair<T> negative_terms(T c, T row, const Math &) const {
    return terms(c + negative_bias - row);
  }
  template <typename Math> FASTDML_HD T negative_weight(T c, T row, const Math &) const {
    return weight(c + negative_bias - row);
  }
  template <typename Math> FASTDML_HD T positive_row(T row, T, T, T, const Math &) const { return row; }
  template <typename Math> FASTDML_HD Pair<T> positive_terms(T c, T row, const Math &) const {
    return terms(positive_bias - c + row);
  }
  template <typename Math> FASTDML_HD Pair<T> positive_weights(T c, T row, const Math &) const {
    return {-weight(positive_bias - c + row), T(0)};
  }

private:
  FASTDML_HD Pair<T> terms(T v) const {
    const T term = v > T(0) ? v : T(0);
    const bool counts = (term > low) & (term < high);
    return {counts ? term : T(0), counts ? T(1) : T(0)};
  }
  FASTDML_HD T weight(T v) const { return (v > T(0)) & (v > low) & (v < high) ? T(1) : T(0); }
};

} // namespace fastdml
