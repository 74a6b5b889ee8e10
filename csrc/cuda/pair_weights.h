// The backward passes over a block of products: the weights of its pairs.
#pragma once

#include "cuda/pair_tile.h"
#include "cuda/positives.h"
#include "rules/terms.h"

namespace fastdml::cuda {

// Writes every weight of the tile: those of the negatives, zero elsewhere. `weights` may be the products
// themselves.
template <template <typename> class Terms, bool both, typename Out, typename T>
__global__ void __launch_bounds__(tile_threads, resident_tiles<Terms, T>)
    negative_weights_kernel(Terms<T> terms, PairProblem<T> problem, ProductBlock<T> block, PairRows<T> rows,
                            SumGradients<T> grads, Out *weights) {
  const DeviceMath<T> math;
  const int warp = threadIdx.x / warp_size;
  const int first = blockIdx.x * tile_columns<T>, row = blockIdx.y * tile_rows;
  const LaneLengths<T> lengths = load_lengths(problem, block, first);
  T limit[runs<T>][run], number[runs<T>][run], grad[runs<T>][run]; // of the lane's columns
  if constexpr (both) {
    load_columns(block, first, rows.negative_threshold, std::numeric_limits<T>::infinity(), limit);
    load_columns(block, first, rows.negative_row, T(0), number);
    load_columns(block, first, grads.negative_sum, T(0), grad);
  }

  for (int r = warp; r < tile_rows; r += tile_warps) {
    const int i = row + r;
    if (i >= block.rows)
      break;
    const int64_t anchor = block.row + i;
    const T own_limit = rows.negative_threshold[anchor], own_number = rows.negative_row[anchor];
    const T own_grad = grads.negative_sum[anchor];
    const T own_inverse = problem.inverse_length(problem.anchors.norms[anchor]);
    T c[runs<T>][run];
    load_negatives(problem, block, i, first, lengths, c);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v) {
      Pack<Out, run> pack;
#pragma unroll
      for (int e = 0; e < run; ++e) {
        const T weight = terms.negative_weight(c[v][e], own_number, math) * own_grad;
        T total = keeps_negative(c[v][e], own_limit) ? weight : T(0);
        if constexpr (both) {
          const T there = terms.negative_weight(c[v][e], number[v][e], math) * grad[v][e];
          total += keeps_negative(c[v][e], limit[v][e]) ? there : T(0);
        }
        total *= slope_of(problem.closeness, c[v][e]);
        pack.at[e] = static_cast<Out>(total * (own_inverse * lengths.inverse[v][e]));
      }
      if (first + column_of(v) < block.columns)
        store(weights + i * block.stride + first + column_of(v), pack);
    }
  }
}

// Writes the weights of the block's positives over the zeros, one anchor a warp.
template <template <typename> class Terms, typename Input, typename T = Accumulator<Input>>
__global__ void __launch_bounds__(positive_threads, 1)
    positive_weights_kernel(Terms<T> terms, PairProblem<T> problem, StoredRows<Input> stored,
                            ProductBlock<T> block, PairRows<T> rows, SumGradients<T> grads,
                            Weight<Input> *weights) {
  const DeviceMath<T> math;
  const int64_t k = anchor_of_warp();
  if (k >= block.rows)
    return;
  const int64_t i = block.row + k, last = block.column + block.columns;
  const int64_t start = problem.anchors.start[i], end = problem.anchors.end[i];
  const int64_t from = start > block.column ? start : block.column, to = end < last ? end : last;
  const auto weight_by = [&](int64_t anchor, T c) {
    const Pair<T> weight = terms.positive_weights(c, rows.positive_row[anchor], math);
    const T total = weight.first * grads.positive_sum[anchor] + weight.second * grads.positive_second[anchor];
    return keeps_positive(c, rows.positive_threshold[anchor]) ? total : T(0);
  };
  for_each_positive(problem, stored, i, from, to, [&](int64_t j, T c, T inverses) {
    T total = T(0);
    if (!problem.selection.is_duplicate(c)) {
      total = weight_by(i, c);
      if (problem.self)
        total += weight_by(j, c);
      total *= slope_of(problem.closeness, c);
    }
    if (threadIdx.x % warp_size == 0)
      weights[k * block.stride + j - block.column] = static_cast<Weight<Input>>(total * inverses);
  });
}

} // namespace fastdml::cuda
