// The forward passes into which the terms of a loss enter: the sums over the negatives of a block and over
// positives.
#pragma once

#include "cuda/pair_tile.h"
#include "cuda/positives.h"
#include "rules/terms.h"

namespace fastdml::cuda {

// One tile: partial statistics of its rows and, where `both`, of its columns, which the warps add up in
// shared memory.
template <template <typename> class Terms, bool both, typename T>
__global__ void __launch_bounds__(tile_threads, resident_tiles<Terms, T>)
    negative_statistics_kernel(Terms<T> terms, PairProblem<T> problem, ProductBlock<T> block,
                               PairRows<T> rows, PartialStatistics<T> of_rows,
                               PartialStatistics<T> of_columns) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  constexpr int count_bits = 8; // of a column: a warp visits only a few rows
  const DeviceMath<T> math;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int first = blockIdx.x * tile_columns<T>, row = blockIdx.y * tile_rows;
  const LaneLengths<T> lengths = load_lengths(problem, block, first);
  // Of the lane's columns.
  T limit[runs<T>][run], number[runs<T>][run];
  T most[runs<T>][run], sum[runs<T>][run], second[runs<T>][run];
  unsigned counts[runs<T>];
  if constexpr (both) {
    load_columns(block, first, rows.negative_threshold, infinity, limit);
    load_columns(block, first, rows.negative_row, T(0), number);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v) {
      counts[v] = 0;
#pragma unroll
      for (int e = 0; e < run; ++e) {
        most[v][e] = lowest<T>();
        sum[v][e] = second[v][e] = T(0);
      }
    }
  }

  for (int r = warp; r < tile_rows; r += tile_warps) {
    const int i = row + r;
    if (i >= block.rows)
      break;
    const T own_limit = rows.negative_threshold[block.row + i], own_number = rows.negative_row[block.row + i];
    T c[runs<T>][run], own_most = lowest<T>(), own_sum = T(0), own_second = T(0);
    int own_count = 0;
    load_negatives(problem, block, i, first, lengths, c);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v)
#pragma unroll
      for (int e = 0; e < run; ++e) {
        const bool is_kept = keeps_negative(c[v][e], own_limit);
        const Pair<T> term = terms.negative_terms(c[v][e], own_number, math);
        own_most = c[v][e] > own_most ? c[v][e] : own_most;
        own_sum += is_kept ? term.first : T(0);
        own_second += is_kept ? term.second : T(0);
        own_count += is_kept;
        if constexpr (both) {
          const bool is_kept_there = keeps_negative(c[v][e], limit[v][e]);
          const Pair<T> there = terms.negative_terms(c[v][e], number[v][e], math);
          most[v][e] = c[v][e] > most[v][e] ? c[v][e] : most[v][e];
          sum[v][e] += is_kept_there ? there.first : T(0);
          second[v][e] += is_kept_there ? there.second : T(0);
          counts[v] += static_cast<unsigned>(is_kept_there) << (count_bits * e);
        }
      }
    own_most = warp_max(own_most);
    own_sum = warp_sum(own_sum);
    own_second = warp_sum(own_second);
    own_count = warp_sum(own_count);
    if (lane == 0) {
      const int64_t at = static_cast<int64_t>(blockIdx.x) * of_rows.count + i;
      of_rows.most[at] = own_most;
      of_rows.sum[at] = own_sum;
      of_rows.second[at] = own_second;
      of_rows.kept[at] = static_cast<T>(own_count);
    }
  }

  if constexpr (both) {
    __shared__ __align__(32) T shared[tile_warps][tile_columns<T>]; // 16 KB
    // Combines one number of every column over the warps.
    const auto combine = [&](const auto &value_of, const auto &join, T *out) {
      __syncthreads();
#pragma unroll
      for (int v = 0; v < runs<T>; ++v) {
        Pack<T, run> pack;
#pragma unroll
        for (int e = 0; e < run; ++e)
          pack.at[e] = value_of(v, e);
        store(&shared[warp][column_of(v)], pack);
      }
      __syncthreads();
      for (int k = threadIdx.x; k < tile_columns<T> && first + k < block.columns; k += tile_threads) {
        T total = shared[0][k];
#pragma unroll
        for (int w = 1; w < tile_warps; ++w)
          total = join(total, shared[w][k]);
        out[static_cast<int64_t>(blockIdx.y) * of_columns.count + first + k] = total;
      }
    };
    const auto add = [](T a, T b) { return a + b; };
    combine([&](int v, int e) { return most[v][e]; }, [](T a, T b) { return b > a ? b : a; },
            of_columns.most);
    combine([&](int v, int e) { return sum[v][e]; }, add, of_columns.sum);
    combine([&](int v, int e) { return second[v][e]; }, add, of_columns.second);
    combine([&](int v, int e) { return static_cast<T>(counts[v] >> (count_bits * e) & 0xffu); }, add,
            of_columns.kept);
  }
}

// The positives of each anchor, one a warp, and with them all that the forward returns.
template <template <typename> class Terms, typename Input, typename T = Accumulator<Input>>
__global__ void __launch_bounds__(positive_threads, 1)
    positive_statistics_kernel(Terms<T> terms, PairProblem<T> problem, StoredRows<Input> stored,
                               NegativeStatistics<T> negatives, PairRows<T> rows,
                               StatisticsOutput<T> output) {
  const DeviceMath<T> math;
  const int64_t i = anchor_of_warp(), anchors = problem.anchors.count;
  if (i >= anchors)
    return;
  const T most = negatives.most[i], negative_sum = negatives.sum[i];
  const T limit = problem.selection.positive_threshold(most);
  const T number = terms.positive_row(rows.negative_row[i], negatives.least[i], most, negative_sum, math);
  T least = std::numeric_limits<T>::infinity(), sum = T(0), second = T(0), count = T(0);
  for_each_positive(problem, stored, i, problem.anchors.start[i], problem.anchors.end[i],
                    [&](int64_t, T c, T) {
                      if (problem.selection.is_duplicate(c))
                        return;
                      least = c < least ? c : least;
                      const bool is_kept = keeps_positive(c, limit);
                      const Pair<T> term = terms.positive_terms(c, number, math);
                      sum += is_kept ? term.first : T(0);
                      second += is_kept ? term.second : T(0);
                      count += is_kept ? T(1) : T(0);
                    });
  if (threadIdx.x % warp_size != 0)
    return;
  rows.positive_threshold[i] = limit;
  rows.positive_row[i] = number;
  const T poison = *output.poison + problem.anchors.norms[i] * T(0);
  T *out = output.statistics + output.order[i];
  out[0] = negative_sum + poison;
  out[anchors] = negatives.second[i];
  out[2 * anchors] = sum + poison;
  out[3 * anchors] = second;
  out[4 * anchors] = most;
  out[5 * anchors] = least;
  out[6 * anchors] = count;
  out[7 * anchors] = negatives.count[i];
}

} // namespace fastdml::cuda
