// How close two rows are, on a scale on which larger means closer; fastdml/rules/closeness.py states the
// same.
#pragma once

#include "cuda/device_math.h"

namespace fastdml::cuda {

enum class Closeness { inner, euclidean, squared };

// From the inner product of two rows and the sum of their squared lengths. NaN stays.
template <typename T> FASTDML_HD T closeness_of(Closeness kind, T product, T squares) {
  if (kind == Closeness::inner)
    return product;
  const T difference = squares - 2 * product;
  const T squared = difference < T(0) ? T(0) : difference;
  return kind == Closeness::squared ? -squared : -DeviceMath<T>().sqrt(squared);
}

// Derivative of the closeness by the inner product; 0 where two rows meet.
template <typename T> FASTDML_HD T slope_of(Closeness kind, T c) {
  if (kind == Closeness::inner)
    return T(1);
  if (!(c < T(0)))
    return c * T(0);
  return kind == Closeness::squared ? T(2) : T(-1) / c;
}

} // namespace fastdml::cuda
