// Counts of similarities at or above thresholds. Compiled once for every instruction set (FASTDML_ISA names
// it), so everything here stands in a namespace of that name and includes no framework.
#include "cpu/rank_kernels.h"

#ifndef FASTDML_ISA
#define FASTDML_ISA baseline
#endif

namespace fastdml::FASTDML_ISA {
namespace {

constexpr int32_t together = 4; // thresholds compared with one load
constexpr int64_t piece = 256;  // similarities that are looked up at a time

// False if none reaches the first of the thresholds: then none reaches a higher one.
template <typename T, int32_t number>
bool compare(const T *__restrict s, int64_t n, const T *thresholds, int32_t *counts) {
  int32_t a = 0, b = 0, c = 0, d = 0;
  const T t0 = thresholds[0], t1 = thresholds[number > 1 ? 1 : 0], t2 = thresholds[number > 2 ? 2 : 0],
          t3 = thresholds[number > 3 ? 3 : 0];
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t j = 0; j < n; ++j) {
    a += !(s[j] < t0);
    if constexpr (number > 1)
      b += !(s[j] < t1);
    if constexpr (number > 2)
      c += !(s[j] < t2);
    if constexpr (number > 3)
      d += !(s[j] < t3);
  }
  const int32_t found[together] = {a, b, c, d};
  for (int32_t k = 0; k < number; ++k)
    counts[k] += found[k];
  return a > 0;
}

template <typename T>
void compare_with_all(const T *s, int64_t n, const T *thresholds, int32_t number, int32_t *counts) {
  int32_t k = 0;
  for (; k + together <= number; k += together)
    if (!compare<T, together>(s, n, thresholds + k, counts + k))
      return;
  switch (number - k) {
  case 3:
    compare<T, 3>(s, n, thresholds + k, counts + k);
    break;
  case 2:
    compare<T, 2>(s, n, thresholds + k, counts + k);
    break;
  case 1:
    compare<T, 1>(s, n, thresholds + k, counts + k);
    break;
  }
}

template <typename T>
void look_up(const T *s, int64_t n, const T *thresholds, int32_t number, int32_t *counts) {
  T reaching[piece];
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t end = begin + piece < n ? begin + piece : n;
    int64_t found = 0;
    for (int64_t j = begin; j < end; ++j) {
      reaching[found] = s[j];
      found += !(s[j] < thresholds[0]);
    }
    for (int64_t j = 0; j < found; ++j) {
      const T *highest = thresholds; // that s reaches, among those looked at
      for (int32_t left = number; left > 1;) {
        const int32_t half = left / 2;
        highest = reaching[j] >= highest[half] ? highest + half : highest;
        left -= half;
      }
      ++counts[highest - thresholds];
    }
  }
}

template <typename T>
void count(const T *s, int64_t n, const T *thresholds, int32_t number, int32_t *counts) {
  if (number <= compared_thresholds)
    compare_with_all(s, n, thresholds, number, counts);
  else
    look_up(s, n, thresholds, number, counts);
}

template <typename T>
void transpose(const T *__restrict s, int64_t stride, int64_t rows, int64_t columns, T *__restrict out,
               int64_t out_stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      out[j * out_stride + i] = s[i * stride + j];
}

template <typename T> constexpr RankKernels<T> table = {count<T>, transpose<T>};

} // namespace

template <typename T> const RankKernels<T> &rank_kernels() { return table<T>; }
template const RankKernels<float> &rank_kernels<float>();
template const RankKernels<double> &rank_kernels<double>();

} // namespace fastdml::FASTDML_ISA
