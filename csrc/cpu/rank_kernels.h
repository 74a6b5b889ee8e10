// Counting how many similarities reach each of a query's thresholds, free of any framework.
//
// rank_kernels.cpp is compiled once for every instruction set; rank_kernels_for_this_cpu picks at run time.
#pragma once

#include <cstdint>

namespace fastdml {

// Queries with at most this many thresholds compare each similarity with all of them; the others look up
// between which two it lies.
constexpr int32_t compared_thresholds = 192;

template <typename T> struct RankKernels {
  // Counts the similarities s[0, n) that reach each of the ascending thresholds. Beyond compared_thresholds,
  // counts[k] takes only those that reach threshold k and not k + 1: summing from the end gives the rest.
  // NaN reaches at least the lowest threshold: it counts against the query.
  void (*count)(const T *s, int64_t n, const T *thresholds, int32_t number, int32_t *counts);
  // out[j, i] = s[i, j], so that columns are counted as rows are.
  void (*transpose)(const T *s, int64_t stride, int64_t rows, int64_t columns, T *out, int64_t out_stride);
};

template <typename T> const RankKernels<T> &rank_kernels_for_this_cpu();

} // namespace fastdml
