// The passes of the centroid engine over rows of a block of products, free of any framework.
//
// Points are compared by Euclidean distance: |x - p|^2 = |x|^2 + |p|^2 - 2 <x, p>, or, where a few are
// listed, from the differences. centroid_kernels.cpp is compiled once for every instruction set;
// centroid_kernels_for_this_cpu picks at run time.
#pragma once

#include <cstdint>

namespace fastdml {

// What has been found nearest to one row: k keys in rising order, infinite where there is none, with the
// indices and the row's label, whose points are left out.
template <typename T> struct Nearest {
  T *keys;
  int64_t *found;
  int64_t k, label;
};

// One row among the points of a block: its products with them, the points' squared lengths and its own.
template <typename T> struct HingeRow {
  const T *squares; // [n] of the points
  T square, limit;
  int64_t own; // index within the block of the point that is left out, or any other number
};

template <typename T> struct CentroidKernels {
  // Sums of squares of the rows of w [count, width].
  void (*squares)(const T *w, int64_t count, int64_t width, T *squares);
  // Enters points first .. first + n into what is nearest. The key of a point is half its squared length,
  // infinite for a point that is near to none, less its product s with the row.
  void (*nearest)(const T *s, const T *half_squares, const int64_t *point_labels, int64_t first, int64_t n,
                  const Nearest<T> &nearest);
  // Adds limit - distance of the points nearer than the limit, and their number.
  void (*hinge)(const T *s, const HingeRow<T> &row, int64_t n, T *sum, T *count);
  // Turns products into weights, in place: grad / distance where the point is nearer than the limit, else 0.
  // Adds them to the sum of the row and to the sums of the columns.
  void (*weights)(T *s, const HingeRow<T> &row, T grad, int64_t n, T *row_sum, T *column_sums);
  T (*distance)(const T *a, const T *b, int64_t width);
  // out += weight (a - b).
  void (*pull)(const T *a, const T *b, T weight, int64_t width, T *out);
  // sum += row.
  void (*add)(const T *row, int64_t width, double *sum);
};

template <typename T> const CentroidKernels<T> &centroid_kernels_for_this_cpu();

} // namespace fastdml
