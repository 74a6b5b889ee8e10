// Multi-Similarity (CVPR 2019, arXiv 1904.06627) as the pair engine reads it.
//
// Constants, in the order of MultiSimilarity.constants() in fastdml/rules/multi_similarity.py:
// exponents are in base two, e^{b(S-l) - shift} = 2^{S * scale - offset}.
#pragma once

#include <limits>

#include "rules/host_device.h"

namespace fastdml {

template <typename T> struct MultiSimilarity {
  T negative_scale, negative_offset, negative_shift, negative_factor;
  T positive_scale, positive_offset, positive_shift, positive_factor;
  T epsilon, duplicate;
  bool mining;

  FASTDML_HD static MultiSimilarity from_constants(const double *c) {
    return {T(c[0]), T(c[1]), T(c[2]), T(c[3]),  T(c[4]),    T(c[5]),
            T(c[6]), T(c[7]), T(c[9]), T(c[10]), c[8] != 0.0};
  }

  // A negative is kept if it exceeds this, given the least similar positive of its anchor.
  FASTDML_HD T negative_threshold(T least_positive) const {
    return mining ? least_positive - epsilon : -std::numeric_limits<T>::infinity();
  }
  // A positive is kept if it is below this, given the most similar negative of its anchor.
  FASTDML_HD T positive_threshold(T most_negative) const {
    return mining ? most_negative + epsilon : std::numeric_limits<T>::infinity();
  }
  FASTDML_HD bool is_positive(T similarity) const { return similarity < duplicate; }

  FASTDML_HD T negative_exponent(T similarity) const { return similarity * negative_scale - negative_offset; }
  FASTDML_HD T positive_exponent(T similarity) const { return similarity * positive_scale - positive_offset; }

  // Both sides weigh a kept pair by its share of 1 + sum, and the 1 is e^-shift after the shift.
  template <typename Math> FASTDML_HD T negative_scale_of_row(T sum, const Math &math) const {
    return T(1) / (math.exp(-negative_shift) + sum);
  }
  template <typename Math> FASTDML_HD T positive_scale_of_row(T sum, const Math &math) const {
    return T(-1) / (math.exp(-positive_shift) + sum);
  }
  template <typename Math> FASTDML_HD T loss(T negative_sum, T positive_sum, const Math &math) const {
    return negative_factor * log_one_plus(negative_sum, negative_shift, math) +
           positive_factor * log_one_plus(positive_sum, positive_shift, math);
  }

private:
  template <typename Math> FASTDML_HD static T log_one_plus(T sum, T shift, const Math &math) {
    return shift == T(0) ? math.log1p(sum) : math.log(math.exp(-shift) + sum) + shift;
  }
};

} // namespace fastdml
