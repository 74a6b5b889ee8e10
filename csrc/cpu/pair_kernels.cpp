// Passes over one tile of pairs. Compiled once for every instruction set (FASTDML_ISA names it), so
// everything here stands in a namespace of that name and includes no framework.
#include "cpu/pair_kernels.h"

#include <cmath>
#include <cstring>

#include "cpu/vector_math.h"
#include "rules/circle.h"
#include "rules/exponential.h"
#include "rules/hinge.h"
#include "rules/info_nce.h"
#include "rules/softplus.h"

#ifndef FASTDML_ISA
#define FASTDML_ISA baseline
#endif

namespace fastdml::FASTDML_ISA {
namespace {

// Terms whose negatives add nothing to the second sum, which need not be gathered then.
template <typename Terms> constexpr bool has_negative_second = true;
template <typename T> constexpr bool has_negative_second<Exponential<T>> = false;
template <typename T> constexpr bool has_negative_second<Softplus<T>> = false;
template <typename T> constexpr bool has_negative_second<Circle<T>> = false;
template <typename T> constexpr bool has_negative_second<InfoNCE<T>> = false;

template <typename T>
void to_closeness(Closeness kind, T *products, int64_t rows, int64_t columns, const T *row_squares,
                  const T *column_squares) {
  for (int64_t i = 0; i < rows; ++i) {
    T *c = products + i * columns;
    const T square = row_squares[i];
    const auto squared = [&](int64_t j) {
      const T apart = square + column_squares[j] - T(2) * c[j];
      return apart > T(0) ? apart : T(0);
    };
    if (kind == Closeness::euclidean) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j)
        c[j] = -std::sqrt(squared(j));
    } else if (kind == Closeness::squared) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j)
        c[j] = -squared(j);
    }
  }
}

// Weights by the closeness to weights by the inner products; two rows that coincide have slope 0.
template <typename T>
void to_product_weights(Closeness kind, const T *c, const T *by_closeness, int64_t n, T *w) {
  if (kind == Closeness::euclidean) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      w[j] = c[j] < T(0) ? -by_closeness[j] / c[j] : T(0);
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      w[j] = c[j] < T(0) ? T(2) * by_closeness[j] : T(0);
  }
}

template <typename T> void positive_least(const PairTile<T> &tile, T duplicate, T *least) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *c = tile.closeness + i * tile.columns;
    T lowest = least[i];
    for (int32_t j = tile.start[i]; j < tile.end[i]; ++j)
      if (j != tile.own[i] && c[j] < duplicate && c[j] < lowest)
        lowest = c[j];
    least[i] = lowest;
  }
}

// The runs [from, to) of columns that are negatives of row i: all but its positives and itself.
struct NegativeRuns {
  int64_t from[3], to[3];

  template <typename T> FASTDML_HD NegativeRuns(const PairTile<T> &tile, int64_t i) {
    const int64_t start = tile.start[i], end = tile.end[i], own = tile.own[i], columns = tile.columns;
    const bool apart = own >= 0 && (own < start || own >= end);
    const int64_t gaps[2] = {apart ? own : columns, apart ? own + 1 : columns};
    const bool own_first = gaps[0] < start;
    from[0] = 0;
    to[0] = own_first ? gaps[0] : start;
    from[1] = own_first ? gaps[1] : end;
    to[1] = own_first ? start : gaps[0];
    from[2] = own_first ? end : gaps[1];
    to[2] = columns;
  }
};

// Of one row, over n columns; `both`: of the columns too.
template <typename T, typename Terms, bool selects, bool both>
void add_negatives(const Terms &terms, const T *__restrict c, int64_t n, T threshold, T row, T &most, T &sum,
                   T &second, T &count, const T *__restrict thresholds, const T *__restrict rows,
                   T *__restrict mosts, T *__restrict sums, T *__restrict seconds, T *__restrict counts) {
  const VectorMath<T> math;
  T closest = most, first_total = 0, second_total = 0, kept_total = 0;
#pragma omp simd reduction(+ : first_total, second_total, kept_total) reduction(max : closest)
  for (int64_t j = 0; j < n; ++j) {
    closest = c[j] > closest ? c[j] : closest;
    const Pair<T> term = terms.negative_terms(c[j], row, math);
    const bool kept = !selects || c[j] > threshold;
    first_total += kept ? term.first : T(0);
    if constexpr (has_negative_second<Terms>)
      second_total += kept ? term.second : T(0);
    if constexpr (selects)
      kept_total += kept ? T(1) : T(0);
    if constexpr (both) {
      mosts[j] = c[j] > mosts[j] ? c[j] : mosts[j];
      const Pair<T> back = terms.negative_terms(c[j], rows[j], math);
      const bool kept_back = !selects || c[j] > thresholds[j];
      sums[j] += kept_back ? back.first : T(0);
      if constexpr (has_negative_second<Terms>)
        seconds[j] += kept_back ? back.second : T(0);
      if constexpr (selects)
        counts[j] += kept_back ? T(1) : T(0);
    }
  }
  most = closest;
  sum += first_total;
  second += second_total;
  count += kept_total;
}

template <typename T, typename Terms, bool selects>
void negative_sums(const double *constants, const PairTile<T> &tile, NegativeSums<T> rows,
                   NegativeSums<T> columns) {
  const Terms terms = Terms::from_constants(constants);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *c = tile.closeness + i * tile.columns;
    const NegativeRuns runs(tile, i);
    for (int k = 0; k < 3; ++k) {
      const int64_t j = runs.from[k], n = runs.to[k] - j;
      if (n <= 0)
        continue;
      if (columns.sum)
        add_negatives<T, Terms, selects, true>(terms, c + j, n, rows.threshold[i], rows.row[i], rows.most[i],
                                               rows.sum[i], rows.second[i], rows.count[i],
                                               columns.threshold + j, columns.row + j, columns.most + j,
                                               columns.sum + j, columns.second + j, columns.count + j);
      else
        add_negatives<T, Terms, selects, false>(terms, c + j, n, rows.threshold[i], rows.row[i], rows.most[i],
                                                rows.sum[i], rows.second[i], rows.count[i], nullptr, nullptr,
                                                nullptr, nullptr, nullptr, nullptr);
    }
  }
}

template <typename T, typename Terms>
void positive_row(const double *constants, int64_t count, const T *row, const T *least, const T *most,
                  const T *negative_sum, T *positive_row) {
  const Terms terms = Terms::from_constants(constants);
  const VectorMath<T> math;
  for (int64_t i = 0; i < count; ++i)
    positive_row[i] = terms.positive_row(row[i], least[i], most[i], negative_sum[i], math);
}

template <typename T, typename Terms, bool selects>
void positive_sums(const double *constants, const PairTile<T> &tile, T duplicate, PositiveSums<T> rows) {
  const Terms terms = Terms::from_constants(constants);
  const VectorMath<T> math;
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *c = tile.closeness + i * tile.columns;
    const int32_t own = tile.own[i];
    const T threshold = rows.threshold[i], row = rows.row[i];
    T first_total = 0, second_total = 0, kept_total = 0;
#pragma omp simd reduction(+ : first_total, second_total, kept_total)
    for (int32_t j = tile.start[i]; j < tile.end[i]; ++j) {
      const bool kept = (j != own) & (!selects || ((c[j] < duplicate) & (c[j] < threshold)));
      const Pair<T> term = terms.positive_terms(c[j], row, math);
      first_total += kept ? term.first : T(0);
      second_total += kept ? term.second : T(0);
      if constexpr (selects)
        kept_total += kept ? T(1) : T(0);
    }
    rows.sum[i] += first_total;
    rows.second[i] += second_total;
    rows.count[i] += kept_total;
  }
}

// Of one row, over n columns; `both`: through the sums of the columns too.
template <typename T, typename Terms, bool selects, bool both>
void negative_weights(const Terms &terms, const T *c, int64_t n, T threshold, T row, T scale,
                      const T *__restrict thresholds, const T *__restrict rows, const T *__restrict scales,
                      T *w) {
  const VectorMath<T> math;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const T closeness = c[j];
    T weight =
        terms.negative_weight(closeness, row, math) * (!selects || closeness > threshold ? scale : T(0));
    if constexpr (both)
      weight += terms.negative_weight(closeness, rows[j], math) *
                (!selects || closeness > thresholds[j] ? scales[j] : T(0));
    w[j] = weight;
  }
}

template <typename T, typename Terms, bool selects, bool both>
void positive_weights(const Terms &terms, const T *c, int64_t n, T duplicate, T threshold, T row, T first,
                      T second, const T *__restrict thresholds, const T *__restrict rows,
                      const T *__restrict firsts, const T *__restrict seconds, T *w) {
  const VectorMath<T> math;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const T closeness = c[j];
    const Pair<T> there = terms.positive_weights(closeness, row, math);
    T weight = !selects || closeness < threshold ? there.first * first + there.second * second : T(0);
    if constexpr (both) {
      const Pair<T> back = terms.positive_weights(closeness, rows[j], math);
      weight +=
          !selects || closeness < thresholds[j] ? back.first * firsts[j] + back.second * seconds[j] : T(0);
    }
    w[j] = !selects || closeness < duplicate ? weight : T(0);
  }
}

template <typename T> bool any_weight(const T *w, int64_t n) {
  bool any = false;
  for (int64_t j = 0; j < n; ++j)
    any |= !(w[j] == T(0));
  return any;
}

template <typename T, typename Terms, bool selects>
bool weights(const double *constants, Closeness kind, const PairTile<T> &tile, T duplicate, PairRow<T> rows,
             PairRow<T> columns, T *weights, T *scratch) {
  const Terms terms = Terms::from_constants(constants);
  const bool both = columns.negative_sum != nullptr;
  bool any = false;
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T *c = tile.closeness + i * tile.columns;
    T *result = weights + i * tile.columns, *w = kind == Closeness::inner ? result : scratch;
    const int32_t own = tile.own[i];
    const NegativeRuns runs(tile, i);
    for (int k = 0; k < 3; ++k) {
      const int64_t j = runs.from[k], n = runs.to[k] - j;
      if (n <= 0)
        continue;
      if (both)
        negative_weights<T, Terms, selects, true>(
            terms, c + j, n, rows.negative_threshold[i], rows.negative_row[i], rows.negative_sum[i],
            columns.negative_threshold + j, columns.negative_row + j, columns.negative_sum + j, w + j);
      else
        negative_weights<T, Terms, selects, false>(terms, c + j, n, rows.negative_threshold[i],
                                                   rows.negative_row[i], rows.negative_sum[i], nullptr,
                                                   nullptr, nullptr, w + j);
    }
    const int64_t j = tile.start[i], n = tile.end[i] - j;
    if (both)
      positive_weights<T, Terms, selects, true>(
          terms, c + j, n, duplicate, rows.positive_threshold[i], rows.positive_row[i], rows.positive_sum[i],
          rows.positive_second[i], columns.positive_threshold + j, columns.positive_row + j,
          columns.positive_sum + j, columns.positive_second + j, w + j);
    else
      positive_weights<T, Terms, selects, false>(
          terms, c + j, n, duplicate, rows.positive_threshold[i], rows.positive_row[i], rows.positive_sum[i],
          rows.positive_second[i], nullptr, nullptr, nullptr, nullptr, w + j);
    if (own >= 0)
      w[own] = T(0);
    if (kind != Closeness::inner)
      to_product_weights(kind, c, w, tile.columns, result);
    any = any || any_weight(result, tile.columns);
  }
  return any;
}

template <typename T, typename Terms, bool selects>
constexpr PairKernels<T> table = {to_closeness<T>,
                                  positive_least<T>,
                                  negative_sums<T, Terms, selects>,
                                  positive_row<T, Terms>,
                                  positive_sums<T, Terms, selects>,
                                  weights<T, Terms, selects>,
                                  Terms::reads_least};

template <typename T, template <typename> typename Terms> const PairKernels<T> *table_of(bool selects) {
  return selects ? &table<T, Terms<T>, true> : &table<T, Terms<T>, false>;
}

} // namespace

template <typename T> const PairKernels<T> *pair_kernels(const char *terms, bool selects) {
  const auto is = [&](const char *name) { return std::strcmp(terms, name) == 0; };
  if (is("exponential"))
    return table_of<T, Exponential>(selects);
  if (is("hinge"))
    return table_of<T, Hinge>(selects);
  if (is("softplus"))
    return table_of<T, Softplus>(selects);
  if (is("circle"))
    return table_of<T, Circle>(selects);
  if (is("info_nce"))
    return table_of<T, InfoNCE>(selects);
  return nullptr;
}
template const PairKernels<float> *pair_kernels<float>(const char *, bool);
template const PairKernels<double> *pair_kernels<double>(const char *, bool);

} // namespace fastdml::FASTDML_ISA
