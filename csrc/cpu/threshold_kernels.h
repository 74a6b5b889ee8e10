// The passes of the threshold statistics over one tile of pairs, free of any framework.
//
// threshold_kernels.cpp is compiled once for every instruction set; threshold_kernels_for_this_cpu picks at
// run time.
#pragma once

#include <cstdint>

namespace fastdml {

// Anchors with at most this many thresholds compare each closeness with all of them; the others look up
// between which two it lies.
constexpr int64_t compared_thresholds = 16;

// Thresholds are ascending. NaN lies beyond none.
template <typename T> struct ThresholdKernels {
  // Turns inner products [rows, columns] to the closeness of that code, of rows of these squared lengths.
  void (*to_closeness)(int64_t code, T *products, int64_t rows, int64_t columns, const T *row_squares,
                       const T *column_squares);
  // Adds how many of c[0, n) lie beyond each threshold, and the sum of what they exceed it by. Where
  // thresholds are looked up, adds to `counts` and `sums` the number and the sum of those beyond threshold k
  // and not k + 1.
  void (*gather)(const T *c, int64_t n, const T *thresholds, int64_t number, double *counts, double *sums);
  // w[j] = sum of the shares of the thresholds that c[j] lies beyond, or, where thresholds are looked up, the
  // share of the last of them. False where all are zero: then w is left alone.
  bool (*weights)(const T *c, int64_t n, const T *thresholds, const T *shares, int64_t number, T *w);
  // Weights by the closeness to weights by the inner products; two rows that coincide have slope 0.
  void (*to_product_weights)(int64_t code, const T *c, int64_t n, T *w);
  // out[j, i] = s[i, j], so that columns are passed over as rows are; and back, added.
  void (*transpose)(const T *s, int64_t stride, int64_t rows, int64_t columns, T *out, int64_t out_stride);
  void (*add_transposed)(const T *s, int64_t stride, int64_t rows, int64_t columns, T *out,
                         int64_t out_stride);
};

template <typename T> const ThresholdKernels<T> &threshold_kernels_for_this_cpu();

} // namespace fastdml
