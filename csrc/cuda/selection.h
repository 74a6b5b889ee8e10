// Which pairs count; fastdml/rules/selection.py states the same. A pair is dropped where a comparison says
// so, which NaN never does: it must reach the sums.
#pragma once

#include <limits>

#include "rules/host_device.h"

namespace fastdml::cuda {

template <typename T> struct Selection {
  static constexpr T infinity = std::numeric_limits<T>::infinity();

  bool relative; // to the anchor's least close positive and to its closest negative
  T negative, positive, duplicate;

  static Selection from_constants(const double *c) { return {c[0] != 0, T(c[1]), T(c[2]), T(c[3])}; }

  // Infinite, which drops everything, where there is no positive, or no negative, to be relative to.
  FASTDML_HD T negative_threshold(T least_positive) const {
    return !relative ? negative : least_positive < infinity ? least_positive - negative : infinity;
  }
  FASTDML_HD T positive_threshold(T most_negative) const {
    return !relative ? positive : most_negative > -infinity ? most_negative + positive : -infinity;
  }
  FASTDML_HD bool is_duplicate(T c) const { return c >= duplicate; }
};

template <typename T> FASTDML_HD bool keeps_negative(T c, T threshold) { return !(c <= threshold); }
template <typename T> FASTDML_HD bool keeps_positive(T c, T threshold) { return !(c >= threshold); }

} // namespace fastdml::cuda
