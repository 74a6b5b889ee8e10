// The backward passes over a block of similarities: the weights of its pairs.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cuda/positives.h"
#include "cuda/similarity_tile.h"
#include "rules/multi_similarity.h"

namespace fastdml::cuda {
namespace {

// Writes every weight of the tile: those of the negatives, zero elsewhere.
template <typename Input, typename Rule, bool both, typename T = Accumulator<Input>>
__global__ void __launch_bounds__(tile_threads, 1)
    negative_weights_kernel(Rule rule, PairProblem<Input> problem, SimilarityBlock<T> block, PairRows<T> rows,
                            Input *weights) {
  const DeviceMath<T> math;
  const int warp = threadIdx.x / warp_size;
  const int first = blockIdx.x * tile_columns<T>, row = blockIdx.y * tile_rows;
  T inverse[runs<T>][run], limit[runs<T>][run], scale[runs<T>][run]; // of the lane's columns
  load_inverses(problem, block, first, inverse);
  if constexpr (both) {
    load_columns(block, first, rows.negative_threshold, std::numeric_limits<T>::infinity(), limit);
    load_columns(block, first, rows.negative_scale, T(0), scale);
  }

  for (int r = warp; r < tile_rows; r += tile_warps) {
    const int i = row + r;
    if (i >= block.rows)
      break;
    const T own_limit = rows.negative_threshold[block.row + i],
            own_scale = rows.negative_scale[block.row + i];
    T s[runs<T>][run];
    const T own_inverse = inverse_length<Input>(problem.anchors.norms[block.row + i]);
    load_negatives(problem, block, i, first, own_inverse, inverse, s);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v) {
      Pack<Input, run> pack;
#pragma unroll
      for (int e = 0; e < run; ++e) {
        T total = s[v][e] > own_limit ? own_scale : T(0);
        if constexpr (both)
          total += s[v][e] > limit[v][e] ? scale[v][e] : T(0);
        const T weight = total * math.exp2(rule.negative_exponent(s[v][e]));
        pack.at[e] =
            static_cast<Input>(keeps_length<Input> ? weight * (own_inverse * inverse[v][e]) : weight);
      }
      if (first + column_of(v) < block.columns)
        store(weights + i * block.stride + first + column_of(v), pack);
    }
  }
}

// Writes the weights of the block's positives over the zeros, one anchor a warp.
template <typename Input, typename Rule, bool both, int length, typename T = Accumulator<Input>>
__global__ void __launch_bounds__(warps_of_positives *warp_size, 1)
    positive_weights_kernel(Rule rule, PairProblem<Input> problem, SimilarityBlock<T> block, PairRows<T> rows,
                            Input *weights) {
  const DeviceMath<T> math;
  const int64_t k = anchor_of_warp();
  if (k >= block.rows)
    return;
  const int64_t i = block.row + k, last = block.column + block.columns;
  const int64_t start = problem.anchors.start[i], end = problem.anchors.end[i];
  const int64_t from = start > block.column ? start : block.column, to = end < last ? end : last;
  const T own_limit = rows.positive_threshold[i], own_scale = rows.positive_scale[i];
  for_each_positive<length>(problem, i, from, to, [&](int64_t j, T s, T inverses) {
    T total = s < own_limit ? own_scale : T(0);
    if (both && s < rows.positive_threshold[j])
      total += rows.positive_scale[j];
    const T weight = rule.is_positive(s) ? total * math.exp2(rule.positive_exponent(s)) : T(0);
    if (threadIdx.x % warp_size == 0)
      weights[k * block.stride + j - block.column] =
          static_cast<Input>(keeps_length<Input> ? weight * inverses : weight);
  });
}

template <typename Input, typename Rule, bool both, typename T = Accumulator<Input>>
void launch_weights(const Rule &rule, const PairProblem<Input> &problem, const SimilarityBlock<T> &block,
                    PairRows<T> rows, Input *weights, Stream stream) {
  const dim3 grid(column_tiles<T>(block.columns), row_tiles<T>(block.rows));
  launch(negative_weights_kernel<Input, Rule, both>, grid, tile_threads, stream, rule, problem, block, rows,
         weights);
  const auto kernel = reads_wide(problem) ? positive_weights_kernel<Input, Rule, both, wide_read<Input>>
                                          : positive_weights_kernel<Input, Rule, both, 1>;
  launch(kernel, dim3(blocks_of_positives(block.rows)), warps_of_positives * warp_size, stream, rule, problem,
         block, rows, weights);
}

template <typename Input, typename Rule, typename T = Accumulator<Input>>
void weights(const double *constants, const PairProblem<Input> &problem, const SimilarityBlock<T> &block,
             PairRows<T> rows, Input *weights, Stream stream) {
  const Rule rule = Rule::from_constants(constants);
  if (problem.self)
    launch_weights<Input, Rule, true>(rule, problem, block, rows, weights, stream);
  else
    launch_weights<Input, Rule, false>(rule, problem, block, rows, weights, stream);
}

} // namespace

template <typename Input> void set_backward_kernels(PairRule rule, PairKernels<Input> &kernels) {
  switch (rule) {
  case PairRule::multi_similarity:
    kernels.weights = weights<Input, MultiSimilarity<Accumulator<Input>>>;
  }
}

#define FASTDML_FOR_INPUT(Input) template void set_backward_kernels<Input>(PairRule, PairKernels<Input> &);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(torch::headeronly::Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
