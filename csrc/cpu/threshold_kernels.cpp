// Counts, sums and weights of closeness beyond thresholds. Compiled once for every instruction set
// (FASTDML_ISA names it), so everything here stands in a namespace of that name and includes no framework.
#include "cpu/threshold_kernels.h"

#include <cmath>
#include <limits>

#ifndef FASTDML_ISA
#define FASTDML_ISA baseline
#endif

namespace fastdml::FASTDML_ISA {
namespace {

constexpr int64_t euclidean = 1, squared = 2; // codes of fastdml/rules/closeness.py
constexpr int64_t together = 4;               // thresholds compared with one load
constexpr int64_t piece = 256;                // closeness passed over at a time: summed in T, then in double

template <typename T>
void to_closeness(int64_t code, T *products, int64_t rows, int64_t columns, const T *row_squares,
                  const T *column_squares) {
  for (int64_t i = 0; i < rows; ++i) {
    T *__restrict c = products + i * columns;
    const T square = row_squares[i];
    const auto apart = [&](int64_t j) {
      const T found = square + column_squares[j] - T(2) * c[j];
      return found > T(0) ? found : T(0);
    };
    if (code == euclidean) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j)
        c[j] = -std::sqrt(apart(j));
    } else if (code == squared) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j)
        c[j] = -apart(j);
    }
  }
}

template <typename T>
void to_product_weights(int64_t code, const T *__restrict c, int64_t n, T *__restrict w) {
  if (code == euclidean) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      w[j] = c[j] < T(0) ? -w[j] / c[j] : T(0);
  } else if (code == squared) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      w[j] = c[j] < T(0) ? T(2) * w[j] : T(0);
  }
}

template <typename T> T largest(const T *__restrict c, int64_t n) {
  T most = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : most)
  for (int64_t j = 0; j < n; ++j)
    most = c[j] > most ? c[j] : most;
  return most;
}

template <typename T, int64_t number>
void compare(const T *__restrict c, int64_t n, const T *thresholds, double *counts, double *sums) {
  T n0 = 0, n1 = 0, n2 = 0, n3 = 0, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  const T t0 = thresholds[0], t1 = thresholds[number > 1 ? 1 : 0], t2 = thresholds[number > 2 ? 2 : 0],
          t3 = thresholds[number > 3 ? 3 : 0];
  const auto add = [](T beyond, T &count, T &sum) {
    count += beyond > T(0) ? T(1) : T(0);
    sum += beyond > T(0) ? beyond : T(0);
  };
#pragma omp simd reduction(+ : n0, n1, n2, n3, s0, s1, s2, s3)
  for (int64_t j = 0; j < n; ++j) {
    add(c[j] - t0, n0, s0);
    if constexpr (number > 1)
      add(c[j] - t1, n1, s1);
    if constexpr (number > 2)
      add(c[j] - t2, n2, s2);
    if constexpr (number > 3)
      add(c[j] - t3, n3, s3);
  }
  const T found[together] = {n0, n1, n2, n3}, exceeded[together] = {s0, s1, s2, s3};
  for (int64_t k = 0; k < number; ++k) {
    counts[k] += found[k];
    sums[k] += exceeded[k];
  }
}

template <typename T, int64_t number>
void add_shares(const T *__restrict c, int64_t n, const T *thresholds, const T *shares, T *__restrict w) {
  const T t0 = thresholds[0], t1 = thresholds[number > 1 ? 1 : 0], t2 = thresholds[number > 2 ? 2 : 0],
          t3 = thresholds[number > 3 ? 3 : 0];
  const T g0 = shares[0], g1 = shares[number > 1 ? 1 : 0], g2 = shares[number > 2 ? 2 : 0],
          g3 = shares[number > 3 ? 3 : 0];
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    T share = c[j] > t0 ? g0 : T(0);
    if constexpr (number > 1)
      share += c[j] > t1 ? g1 : T(0);
    if constexpr (number > 2)
      share += c[j] > t2 ? g2 : T(0);
    if constexpr (number > 3)
      share += c[j] > t3 ? g3 : T(0);
    w[j] += share;
  }
}

// Calls pass<1 to 4>(first) for the thresholds below `most`, four at a time.
template <typename T, typename Pass>
void for_thresholds_below(T most, const T *thresholds, int64_t number, const Pass &pass) {
  for (int64_t k = 0; k < number && most > thresholds[k]; k += together) {
    switch (number - k) {
    case 1:
      pass.template operator()<1>(k);
      break;
    case 2:
      pass.template operator()<2>(k);
      break;
    case 3:
      pass.template operator()<3>(k);
      break;
    default:
      pass.template operator()<4>(k);
    }
  }
}

// The last of ascending thresholds that c lies beyond, given that it lies beyond the first.
template <typename T> int64_t last_below(T c, const T *thresholds, int64_t number) {
  const T *last = thresholds;
  for (int64_t left = number; left > 1;) {
    const int64_t half = left / 2;
    last = c > last[half] ? last + half : last;
    left -= half;
  }
  return last - thresholds;
}

template <typename T>
void gather(const T *c, int64_t n, const T *thresholds, int64_t number, double *counts, double *sums) {
  for (int64_t begin = 0; begin < n; begin += piece) {
    const T *s = c + begin;
    const int64_t length = n - begin < piece ? n - begin : piece;
    const T most = largest(s, length);
    if (!(most > thresholds[0]))
      continue;
    if (number <= compared_thresholds) {
      for_thresholds_below(most, thresholds, number, [&]<int64_t taken>(int64_t k) {
        compare<T, taken>(s, length, thresholds + k, counts + k, sums + k);
      });
      continue;
    }
    for (int64_t j = 0; j < length; ++j)
      if (s[j] > thresholds[0]) {
        const int64_t k = last_below(s[j], thresholds, number);
        counts[k] += 1;
        sums[k] += s[j];
      }
  }
}

template <typename T>
bool weights(const T *c, int64_t n, const T *thresholds, const T *shares, int64_t number, T *w) {
  if (!(largest(c, n) > thresholds[0]))
    return false;
  for (int64_t begin = 0; begin < n; begin += piece) {
    const T *s = c + begin;
    T *out = w + begin;
    const int64_t length = n - begin < piece ? n - begin : piece;
    const T most = largest(s, length);
    for (int64_t j = 0; j < length; ++j)
      out[j] = 0;
    if (number <= compared_thresholds) {
      for_thresholds_below(most, thresholds, number, [&]<int64_t taken>(int64_t k) {
        add_shares<T, taken>(s, length, thresholds + k, shares + k, out);
      });
      continue;
    }
    for (int64_t j = 0; j < length; ++j)
      if (s[j] > thresholds[0])
        out[j] = shares[last_below(s[j], thresholds, number)];
  }
  return true;
}

template <typename T>
void transpose(const T *__restrict s, int64_t stride, int64_t rows, int64_t columns, T *__restrict out,
               int64_t out_stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      out[j * out_stride + i] = s[i * stride + j];
}

template <typename T>
void add_transposed(const T *__restrict s, int64_t stride, int64_t rows, int64_t columns, T *__restrict out,
                    int64_t out_stride) {
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i)
      out[j * out_stride + i] += s[i * stride + j];
}

template <typename T>
constexpr ThresholdKernels<T> table = {to_closeness<T>,       gather<T>,    weights<T>,
                                       to_product_weights<T>, transpose<T>, add_transposed<T>};

} // namespace

template <typename T> const ThresholdKernels<T> &threshold_kernels() { return table<T>; }
template const ThresholdKernels<float> &threshold_kernels<float>();
template const ThresholdKernels<double> &threshold_kernels<double>();

} // namespace fastdml::FASTDML_ISA
