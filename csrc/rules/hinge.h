// v = [c + bias - row]_+ for negatives and [bias - c + row]_+ for positives, or with `squared` half its
// square, summed and counted where v lies strictly between low and high: the contrastive and the margin loss.
#pragma once

#include "rules/terms.h"

namespace fastdml {

template <typename T> struct Hinge {
  static constexpr bool reads_least = false;

  T negative_bias, positive_bias, low, high, squared; // squared is 0 or 1

  FASTDML_HD static Hinge from_constants(const double *c) {
    return {T(c[0]), T(c[1]), T(c[2]), T(c[3]), T(c[4])};
  }

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
    v = v > T(0) ? v : T(0);
    const bool counts = (v > low) & (v < high);
    return {counts ? v * ((T(1) - squared) + T(0.5) * squared * v) : T(0), counts ? T(1) : T(0)};
  }
  FASTDML_HD T weight(T v) const {
    return (v > T(0)) & (v > low) & (v < high) ? (T(1) - squared) + squared * v : T(0);
  }
};

} // namespace fastdml
