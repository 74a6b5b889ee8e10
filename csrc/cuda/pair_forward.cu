// The forward passes: thresholds, statistics of the negatives, losses.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cuda/positives.h"
#include "cuda/similarity_tile.h"
#include "rules/multi_similarity.h"

namespace fastdml::cuda {
namespace {

template <typename Input, typename Rule, int length>
__global__ void __launch_bounds__(warps_of_positives *warp_size, 1)
    negative_thresholds_kernel(Rule rule, PairProblem<Input> problem, Accumulator<Input> *threshold,
                               NegativeStatistics<Accumulator<Input>> statistics) {
  using T = Accumulator<Input>;
  const int64_t i = anchor_of_warp();
  if (i >= problem.anchors.count)
    return;
  T least = std::numeric_limits<T>::infinity();
  for_each_positive<length>(problem, i, problem.anchors.start[i], problem.anchors.end[i],
                            [&](int64_t, T s, T) {
                              if (rule.is_positive(s) && s < least)
                                least = s;
                            });
  if (threadIdx.x % warp_size == 0) {
    threshold[i] = rule.negative_threshold(least);
    statistics.most[i] = lowest<T>();
    statistics.sum[i] = T(0);
  }
}

// One tile: partial statistics of its rows and, where `both`, of its columns, which the warps add up in
// shared memory.
template <typename Input, typename Rule, bool both, typename T = Accumulator<Input>>
__global__ void __launch_bounds__(tile_threads, 1)
    negative_statistics_kernel(Rule rule, PairProblem<Input> problem, SimilarityBlock<T> block,
                               const T *threshold, PartialStatistics<T> rows, PartialStatistics<T> columns) {
  const DeviceMath<T> math;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int first = blockIdx.x * tile_columns<T>, row = blockIdx.y * tile_rows;
  T inverse[runs<T>][run], limit[runs<T>][run], most[runs<T>][run],
      sum[runs<T>][run]; // of the lane's columns
  load_inverses(problem, block, first, inverse);
  if constexpr (both) {
    load_columns(block, first, threshold, std::numeric_limits<T>::infinity(), limit);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v)
#pragma unroll
      for (int e = 0; e < run; ++e) {
        most[v][e] = lowest<T>();
        sum[v][e] = T(0);
      }
  }

  for (int r = warp; r < tile_rows; r += tile_warps) {
    const int i = row + r;
    if (i >= block.rows)
      break;
    const T own_limit = threshold[block.row + i];
    T s[runs<T>][run], own_most = lowest<T>(), own_sum = T(0);
    const T own_inverse = inverse_length<Input>(problem.anchors.norms[block.row + i]);
    load_negatives(problem, block, i, first, own_inverse, inverse, s);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v)
#pragma unroll
      for (int e = 0; e < run; ++e) {
        const T term = math.exp2(rule.negative_exponent(s[v][e]));
        own_most = s[v][e] > own_most ? s[v][e] : own_most;
        own_sum += s[v][e] > own_limit ? term : T(0);
        if constexpr (both) {
          most[v][e] = s[v][e] > most[v][e] ? s[v][e] : most[v][e];
          sum[v][e] += s[v][e] > limit[v][e] ? term : T(0);
        }
      }
    own_most = warp_max(own_most);
    own_sum = warp_sum(own_sum);
    if (lane == 0) {
      const int64_t at = static_cast<int64_t>(blockIdx.x) * rows.count + i;
      rows.most[at] = own_most;
      rows.sum[at] = own_sum;
    }
  }

  if constexpr (both) {
    __shared__ __align__(32) T shared_most[tile_warps][tile_columns<T>]; // 16 KB each
    __shared__ __align__(32) T shared_sum[tile_warps][tile_columns<T>];
#pragma unroll
    for (int v = 0; v < runs<T>; ++v) {
      Pack<T, run> most_pack, sum_pack;
#pragma unroll
      for (int e = 0; e < run; ++e) {
        most_pack.at[e] = most[v][e];
        sum_pack.at[e] = sum[v][e];
      }
      store(&shared_most[warp][column_of(v)], most_pack);
      store(&shared_sum[warp][column_of(v)], sum_pack);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < tile_columns<T> && first + c < block.columns; c += tile_threads) {
      T highest = shared_most[0][c], total = shared_sum[0][c];
#pragma unroll
      for (int w = 1; w < tile_warps; ++w) {
        highest = shared_most[w][c] > highest ? shared_most[w][c] : highest;
        total += shared_sum[w][c];
      }
      const int64_t at = static_cast<int64_t>(blockIdx.y) * columns.count + first + c;
      columns.most[at] = highest;
      columns.sum[at] = total;
    }
  }
}

template <typename T>
__global__ void merge_statistics_kernel(PartialStatistics<T> rows, PartialStatistics<T> columns,
                                        NegativeStatistics<T> all) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool is_row = k < rows.count;
  const int64_t i = is_row ? k : k - rows.count;
  const int tiles = is_row ? rows.tiles : columns.tiles, count = is_row ? rows.count : columns.count;
  if (tiles == 0 || i >= count)
    return;
  const T *part_most = is_row ? rows.most : columns.most, *part_sum = is_row ? rows.sum : columns.sum;
  const int64_t anchor = (is_row ? rows.first : columns.first) + i;
  T most = all.most[anchor], sum = all.sum[anchor];
  for (int tile = 0; tile < tiles; ++tile) {
    const int64_t at = static_cast<int64_t>(tile) * count + i;
    most = part_most[at] > most ? part_most[at] : most;
    sum += part_sum[at];
  }
  all.most[anchor] = most;
  all.sum[anchor] = sum;
}

template <typename Input, typename Rule, int length>
__global__ void __launch_bounds__(warps_of_positives *warp_size, 1)
    losses_kernel(Rule rule, PairProblem<Input> problem, NegativeStatistics<Accumulator<Input>> statistics,
                  PairRows<Accumulator<Input>> rows, LossOutput<Accumulator<Input>> output) {
  using T = Accumulator<Input>;
  const DeviceMath<T> math;
  const int64_t i = anchor_of_warp();
  if (i >= problem.anchors.count)
    return;
  const T limit = rule.positive_threshold(statistics.most[i]);
  T positive_sum = T(0);
  for_each_positive<length>(problem, i, problem.anchors.start[i], problem.anchors.end[i],
                            [&](int64_t, T s, T) {
                              const bool kept = rule.is_positive(s) && s < limit;
                              positive_sum += kept ? math.exp2(rule.positive_exponent(s)) : T(0);
                            });
  if (threadIdx.x % warp_size == 0) {
    const T negative_sum = statistics.sum[i];
    const T poison = *output.poison + output.norms[i] * T(0);
    output.losses[output.order[i]] = rule.loss(negative_sum, positive_sum, math) + poison;
    rows.positive_threshold[i] = limit;
    rows.negative_scale[i] = rule.negative_scale_of_row(negative_sum, math) + poison;
    rows.positive_scale[i] = rule.positive_scale_of_row(positive_sum, math) + poison;
  }
}

template <typename Input, typename Rule>
void negative_thresholds(const double *constants, const PairProblem<Input> &problem,
                         Accumulator<Input> *threshold, NegativeStatistics<Accumulator<Input>> statistics,
                         Stream stream) {
  const auto kernel = reads_wide(problem) ? negative_thresholds_kernel<Input, Rule, wide_read<Input>>
                                          : negative_thresholds_kernel<Input, Rule, 1>;
  launch(kernel, dim3(blocks_of_positives(problem.anchors.count)), warps_of_positives * warp_size, stream,
         Rule::from_constants(constants), problem, threshold, statistics);
}

template <typename Input, typename Rule, typename T = Accumulator<Input>>
void negative_statistics(const double *constants, const PairProblem<Input> &problem,
                         const SimilarityBlock<T> &block, const T *threshold, PartialStatistics<T> rows,
                         PartialStatistics<T> columns, Stream stream) {
  const auto kernel = columns.tiles > 0 ? negative_statistics_kernel<Input, Rule, true>
                                        : negative_statistics_kernel<Input, Rule, false>;
  const dim3 grid(column_tiles<T>(block.columns), row_tiles<T>(block.rows));
  launch(kernel, grid, tile_threads, stream, Rule::from_constants(constants), problem, block, threshold, rows,
         columns);
}

template <typename Input, typename Rule>
void losses(const double *constants, const PairProblem<Input> &problem,
            NegativeStatistics<Accumulator<Input>> statistics, PairRows<Accumulator<Input>> rows,
            LossOutput<Accumulator<Input>> output, Stream stream) {
  const auto kernel =
      reads_wide(problem) ? losses_kernel<Input, Rule, wide_read<Input>> : losses_kernel<Input, Rule, 1>;
  launch(kernel, dim3(blocks_of_positives(problem.anchors.count)), warps_of_positives * warp_size, stream,
         Rule::from_constants(constants), problem, statistics, rows, output);
}

template <typename Input, typename Rule> void set_kernels(PairKernels<Input> &kernels) {
  kernels.negative_thresholds = negative_thresholds<Input, Rule>;
  kernels.negative_statistics = negative_statistics<Input, Rule>;
  kernels.losses = losses<Input, Rule>;
}

} // namespace

template <typename T> int row_tiles(int rows) { return tiles_of(rows, tile_rows); }
template <typename T> int column_tiles(int columns) { return tiles_of(columns, tile_columns<T>); }

template <typename T>
void merge_statistics(PartialStatistics<T> rows, PartialStatistics<T> columns, NegativeStatistics<T> all,
                      Stream stream) {
  const int64_t work = rows.count + (columns.tiles > 0 ? columns.count : 0);
  launch(merge_statistics_kernel<T>, dim3(static_cast<unsigned>((work + 127) / 128)), 128, stream, rows,
         columns, all);
}

template <typename Input> void set_forward_kernels(PairRule rule, PairKernels<Input> &kernels) {
  switch (rule) {
  case PairRule::multi_similarity:
    set_kernels<Input, MultiSimilarity<Accumulator<Input>>>(kernels);
  }
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template int row_tiles<T>(int);                                                                            \
  template int column_tiles<T>(int);                                                                         \
  template void merge_statistics<T>(PartialStatistics<T>, PartialStatistics<T>, NegativeStatistics<T>,       \
                                    Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

#define FASTDML_FOR_INPUT(Input) template void set_forward_kernels<Input>(PairRule, PairKernels<Input> &);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(torch::headeronly::Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
