// Neighbours, hinges and sums of the centroid engine. Compiled once for every instruction set (FASTDML_ISA
// names it), so everything here stands in a namespace of that name and includes no framework.
#include "cpu/centroid_kernels.h"

#include <algorithm>
#include <cmath>

#ifndef FASTDML_ISA
#define FASTDML_ISA baseline
#endif

namespace fastdml::FASTDML_ISA {
namespace {

constexpr int64_t together = 64; // products that are tested at once for one that enters

template <typename T> void squares(const T *w, int64_t count, int64_t width, T *squares) {
  for (int64_t i = 0; i < count; ++i) {
    const T *__restrict row = w + i * width;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < width; ++d)
      sum += row[d] * row[d];
    squares[i] = sum;
  }
}

// Of equals the one that came first stays first.
template <typename T> void enter(T key, int64_t index, const Nearest<T> &nearest) {
  int64_t at = nearest.k - 1;
  for (; at > 0 && key < nearest.keys[at - 1]; --at) {
    nearest.keys[at] = nearest.keys[at - 1];
    nearest.found[at] = nearest.found[at - 1];
  }
  nearest.keys[at] = key;
  nearest.found[at] = index;
}

template <typename T>
void nearest(const T *s, const T *half_squares, const int64_t *point_labels, int64_t first, int64_t n,
             const Nearest<T> &nearest) {
  for (int64_t j = 0; j < n; j += together) {
    const int64_t here = std::min(together, n - j);
    const T *__restrict products = s + j, *__restrict halves = half_squares + j;
    const T bound = nearest.keys[nearest.k - 1];
    T hits = 0;
    if (here == together) {
#pragma omp simd reduction(+ : hits)
      for (int64_t t = 0; t < together; ++t)
        hits += halves[t] - products[t] < bound ? T(1) : T(0);
    } else {
      hits = 1;
    }
    if (hits == T(0))
      continue;
    for (int64_t t = 0; t < here; ++t) {
      const T key = halves[t] - products[t];
      if (key < nearest.keys[nearest.k - 1] && point_labels[j + t] != nearest.label)
        enter(key, first + j + t, nearest);
    }
  }
}

template <typename T> T distance_of(T square, T other_square, T product) {
  const T squared = square + other_square - T(2) * product;
  return std::sqrt(squared > T(0) ? squared : T(0) * squared); // NaN stays NaN
}

template <typename T> void hinge(const T *s, const HingeRow<T> &row, int64_t n, T *sum, T *count) {
  const T *__restrict products = s, *__restrict squares = row.squares;
  const T square = row.square, limit = row.limit;
  const int32_t own = static_cast<int32_t>(row.own >= 0 && row.own < n ? row.own : -1);
  T total = 0, number = 0;
#pragma omp simd reduction(+ : total, number)
  for (int32_t j = 0; j < static_cast<int32_t>(n); ++j) {
    const T slack = limit - distance_of(square, squares[j], products[j]);
    const bool inside = (slack > T(0)) & (j != own);
    total += inside ? slack : T(0);
    number += inside ? T(1) : T(0);
  }
  *sum += total;
  *count += number;
}

template <typename T>
void weights(T *s, const HingeRow<T> &row, T grad, int64_t n, T *row_sum, T *column_sums) {
  T *__restrict products = s, *__restrict sums = column_sums;
  const T *__restrict squares = row.squares;
  const T square = row.square, limit = row.limit;
  const int32_t own = static_cast<int32_t>(row.own >= 0 && row.own < n ? row.own : -1);
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int32_t j = 0; j < static_cast<int32_t>(n); ++j) {
    const T distance = distance_of(square, squares[j], products[j]);
    const bool inside = (limit - distance > T(0)) & (distance > T(0)) & (j != own);
    const T weight = (inside ? grad / distance : T(0)) + T(0) * distance;
    total += weight;
    sums[j] += weight;
    products[j] = weight;
  }
  *row_sum += total;
}

template <typename T> T distance(const T *a, const T *b, int64_t width) {
  const T *__restrict left = a, *__restrict right = b;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < width; ++d)
    sum += (left[d] - right[d]) * (left[d] - right[d]);
  return std::sqrt(sum);
}

template <typename T> void pull(const T *a, const T *b, T weight, int64_t width, T *out) {
  const T *__restrict left = a, *__restrict right = b;
  T *__restrict into = out;
#pragma omp simd
  for (int64_t d = 0; d < width; ++d)
    into[d] += weight * (left[d] - right[d]);
}

template <typename T> void add(const T *row, int64_t width, double *sum) {
  const T *__restrict from = row;
  double *__restrict into = sum;
#pragma omp simd
  for (int64_t d = 0; d < width; ++d)
    into[d] += static_cast<double>(from[d]);
}

template <typename T>
constexpr CentroidKernels<T> table = {squares<T>,  nearest<T>, hinge<T>, weights<T>,
                                      distance<T>, pull<T>,    add<T>};

} // namespace

template <typename T> const CentroidKernels<T> &centroid_kernels() { return table<T>; }
template const CentroidKernels<float> &centroid_kernels<float>();
template const CentroidKernels<double> &centroid_kernels<double>();

} // namespace fastdml::FASTDML_ISA
