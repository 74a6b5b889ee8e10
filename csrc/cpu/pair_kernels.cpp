// Passes over one tile of similarities. Compiled once for every instruction set (FASTDML_ISA names it), so
// everything here stands in a namespace of that name and includes no framework.
#include "cpu/pair_kernels.h"

#include "cpu/exp2.h"
#include "rules/multi_similarity.h"

#ifndef FASTDML_ISA
#define FASTDML_ISA baseline
#endif

namespace fastdml::FASTDML_ISA {
namespace {

template <typename T, typename Rule>
void positive_least(const double *constants, const PairTile<T> &tile, T *least) {
  const Rule rule = Rule::from_constants(constants);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *s = tile.similarity + i * tile.row_stride;
    T lowest = least[i];
    for (int32_t j = tile.start[i]; j < tile.end[i]; ++j)
      if (j != tile.self[i] && rule.is_positive(s[j]) && s[j] < lowest)
        lowest = s[j];
    least[i] = lowest;
  }
}

template <typename T, typename Rule>
void positive_sum(const double *constants, const PairTile<T> &tile, const T *threshold, T *sum) {
  const Rule rule = Rule::from_constants(constants);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *s = tile.similarity + i * tile.row_stride;
    T total = sum[i];
    const int32_t self = tile.self[i];
    const T limit = threshold[i];
#pragma omp simd reduction(+ : total)
    for (int32_t j = tile.start[i]; j < tile.end[i]; ++j) {
      const bool kept = j != self && rule.is_positive(s[j]) && s[j] < limit;
      total += kept ? Exp2<T>::of(rule.positive_exponent(s[j])) : T(0);
    }
    sum[i] = total;
  }
}

template <typename T, typename Rule>
void negatives_of_row(const Rule &rule, const T *__restrict s, int64_t n, T threshold, T &most, T &sum) {
  T m = most, total = 0;
#pragma omp simd reduction(+ : total) reduction(max : m)
  for (int64_t j = 0; j < n; ++j) {
    m = s[j] > m ? s[j] : m;
    const T term = Exp2<T>::of(rule.negative_exponent(s[j]));
    total += s[j] > threshold ? term : T(0);
  }
  most = m;
  sum += total;
}

template <typename T, typename Rule>
void negatives_of_row_and_columns(const Rule &rule, const T *__restrict s, int64_t n, T threshold, T &most,
                                  T &sum, const T *__restrict thresholds, T *__restrict mosts,
                                  T *__restrict sums) {
  T m = most, total = 0;
#pragma omp simd reduction(+ : total) reduction(max : m)
  for (int64_t j = 0; j < n; ++j) {
    m = s[j] > m ? s[j] : m;
    mosts[j] = s[j] > mosts[j] ? s[j] : mosts[j];
    const T term = Exp2<T>::of(rule.negative_exponent(s[j]));
    total += s[j] > threshold ? term : T(0);
    sums[j] += s[j] > thresholds[j] ? term : T(0);
  }
  most = m;
  sum += total;
}

template <typename T, typename Rule>
void negative_statistics(const double *constants, const PairTile<T> &tile, NegativeStatistics<T> rows,
                         NegativeStatistics<T> columns) {
  const Rule rule = Rule::from_constants(constants);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *s = tile.similarity + i * tile.row_stride;
    const int64_t from[2] = {0, tile.end[i]}, to[2] = {tile.start[i], tile.columns};
    for (int side = 0; side < 2; ++side) {
      const int64_t j = from[side], n = to[side] - j;
      if (n <= 0)
        continue;
      if (columns.sum)
        negatives_of_row_and_columns<T>(rule, s + j, n, rows.threshold[i], rows.most[i], rows.sum[i],
                                        columns.threshold + j, columns.most + j, columns.sum + j);
      else
        negatives_of_row<T>(rule, s + j, n, rows.threshold[i], rows.most[i], rows.sum[i]);
    }
  }
}

template <typename T, typename Rule>
void negative_weights(const Rule &rule, const T *s, int64_t n, T threshold, T scale,
                      const T *__restrict thresholds, const T *__restrict scales, T *w) {
  if (scales) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const T term = Exp2<T>::of(rule.negative_exponent(s[j]));
      w[j] = term * ((s[j] > threshold ? scale : T(0)) + (s[j] > thresholds[j] ? scales[j] : T(0)));
    }
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const T term = Exp2<T>::of(rule.negative_exponent(s[j]));
      w[j] = s[j] > threshold ? term * scale : T(0);
    }
  }
}

template <typename T, typename Rule>
void weights(const double *constants, const PairTile<T> &tile, PairRow<T> rows, PairRow<T> columns,
             T *weights) {
  const Rule rule = Rule::from_constants(constants);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *s = tile.similarity + i * tile.row_stride;
    T *w = weights + i * tile.columns;
    const int64_t from[2] = {0, tile.end[i]}, to[2] = {tile.start[i], tile.columns};
    for (int side = 0; side < 2; ++side) {
      const int64_t j = from[side], n = to[side] - j;
      if (n > 0)
        negative_weights<T>(rule, s + j, n, rows.negative_threshold[i], rows.negative_scale[i],
                            columns.negative_scale ? columns.negative_threshold + j : nullptr,
                            columns.negative_scale ? columns.negative_scale + j : nullptr, w + j);
    }
    for (int32_t j = tile.start[i]; j < tile.end[i]; ++j) {
      T scale = s[j] < rows.positive_threshold[i] ? rows.positive_scale[i] : T(0);
      if (columns.positive_scale && s[j] < columns.positive_threshold[j])
        scale += columns.positive_scale[j];
      const bool counts = j != tile.self[i] && rule.is_positive(s[j]);
      w[j] = counts ? scale * Exp2<T>::of(rule.positive_exponent(s[j])) : T(0);
    }
  }
}

template <typename T, typename Rule>
void losses(const double *constants, int64_t rows, const T *negative_sum, const T *positive_sum, T *loss,
            T *negative_scale, T *positive_scale) {
  const Rule rule = Rule::from_constants(constants);
  const HostMath<T> math;
  for (int64_t i = 0; i < rows; ++i) {
    loss[i] = rule.loss(negative_sum[i], positive_sum[i], math);
    negative_scale[i] = rule.negative_scale_of_row(negative_sum[i], math);
    positive_scale[i] = rule.positive_scale_of_row(positive_sum[i], math);
  }
}

template <typename T, typename Rule>
void negative_threshold(const double *constants, int64_t rows, T *least_to_threshold) {
  const Rule rule = Rule::from_constants(constants);
  for (int64_t i = 0; i < rows; ++i)
    least_to_threshold[i] = rule.negative_threshold(least_to_threshold[i]);
}

template <typename T, typename Rule>
void positive_threshold(const double *constants, int64_t rows, const T *most, T *threshold) {
  const Rule rule = Rule::from_constants(constants);
  for (int64_t i = 0; i < rows; ++i)
    threshold[i] = rule.positive_threshold(most[i]);
}

template <typename T, typename Rule>
constexpr PairKernels<T> table = {
    positive_least<T, Rule>, positive_sum<T, Rule>,       negative_statistics<T, Rule>, weights<T, Rule>,
    losses<T, Rule>,         negative_threshold<T, Rule>, positive_threshold<T, Rule>};

} // namespace

template <typename T> const PairKernels<T> &pair_kernels(PairRule rule) {
  switch (rule) {
  case PairRule::multi_similarity:
    break;
  }
  return table<T, MultiSimilarity<T>>;
}
template const PairKernels<float> &pair_kernels<float>(PairRule);
template const PairKernels<double> &pair_kernels<double>(PairRule);

} // namespace fastdml::FASTDML_ISA
