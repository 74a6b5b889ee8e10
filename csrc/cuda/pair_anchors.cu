#include "cuda/pair_anchors.h"

#include "cuda/pair_tile.h"
#include "cuda/positives.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 128;

dim3 blocks(int64_t work) { return dim3(static_cast<unsigned>((work + threads - 1) / threads)); }

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <typename Input, typename T = Accumulator<Input>>
__global__ void __launch_bounds__(positive_threads, 1)
    begin_statistics_kernel(PairProblem<T> problem, StoredRows<Input> stored, bool find_least, const T *row,
                            const int64_t *order, PairRows<T> rows, NegativeStatistics<T> statistics) {
  const int64_t i = anchor_of_warp();
  if (i >= problem.anchors.count)
    return;
  T least = std::numeric_limits<T>::infinity();
  if (find_least)
    for_each_positive(problem, stored, i, problem.anchors.start[i], problem.anchors.end[i],
                      [&](int64_t, T c, T) {
                        if (!problem.selection.is_duplicate(c) && c < least)
                          least = c;
                      });
  if (threadIdx.x % warp_size != 0)
    return;
  rows.negative_threshold[i] = problem.selection.negative_threshold(least);
  rows.negative_row[i] = row ? row[order[i]] : T(0);
  statistics.least[i] = least;
  statistics.most[i] = lowest<T>();
  statistics.sum[i] = statistics.second[i] = statistics.count[i] = T(0);
}

template <typename T>
__global__ void __launch_bounds__(threads, 1)
    merge_statistics_kernel(PartialStatistics<T> of_rows, PartialStatistics<T> of_columns,
                            NegativeStatistics<T> all) {
  const int64_t k = thread_index();
  const bool is_row = k < of_rows.count;
  const PartialStatistics<T> part = is_row ? of_rows : of_columns;
  const int64_t i = is_row ? k : k - of_rows.count;
  if (part.tiles == 0 || i >= part.count)
    return;
  const int64_t anchor = part.first + i;
  T most = all.most[anchor], sum = all.sum[anchor], second = all.second[anchor], count = all.count[anchor];
  for (int tile = 0; tile < part.tiles; ++tile) {
    const int64_t at = static_cast<int64_t>(tile) * part.count + i;
    most = part.most[at] > most ? part.most[at] : most;
    sum += part.sum[at];
    second += part.second[at];
    count += part.kept[at];
  }
  all.most[anchor] = most;
  all.sum[anchor] = sum;
  all.second[anchor] = second;
  all.count[anchor] = count;
}

template <typename T>
__global__ void __launch_bounds__(threads, 1)
    sort_gradients_kernel(const T *grads, const int64_t *order, const T *norms, const T *poison,
                          int64_t anchors, SumGradients<T> sorted) {
  const int64_t k = thread_index();
  if (k >= anchors)
    return;
  const T *grad = grads + order[k];
  const T spoilt = *poison + norms[k] * T(0);
  sorted.negative_sum[k] = grad[0] + spoilt;
  sorted.positive_sum[k] = grad[anchors] + spoilt;
  sorted.positive_second[k] = grad[2 * anchors] + spoilt;
}

} // namespace

template <typename Input>
void begin_statistics(const PairProblem<Accumulator<Input>> &problem, const StoredRows<Input> &stored,
                      bool find_least, const Accumulator<Input> *row, const int64_t *order,
                      PairRows<Accumulator<Input>> rows, NegativeStatistics<Accumulator<Input>> statistics,
                      Stream stream) {
  launch(begin_statistics_kernel<Input>, positive_grid(problem.anchors.count), positive_threads, stream,
         problem, stored, find_least, row, order, rows, statistics);
}

template <typename T> int row_tiles(int rows) { return tiles_of(rows, tile_rows); }
template <typename T> int column_tiles(int columns) { return tiles_of(columns, tile_columns<T>); }

template <typename T>
void merge_statistics(PartialStatistics<T> of_rows, PartialStatistics<T> of_columns,
                      NegativeStatistics<T> all, Stream stream) {
  const int64_t work = of_rows.count + (of_columns.tiles > 0 ? of_columns.count : 0);
  launch(merge_statistics_kernel<T>, blocks(work), threads, stream, of_rows, of_columns, all);
}

template <typename T>
void sort_gradients(const T *grads, const int64_t *order, const T *norms, const T *poison, int64_t anchors,
                    SumGradients<T> sorted, Stream stream) {
  launch(sort_gradients_kernel<T>, blocks(anchors), threads, stream, grads, order, norms, poison, anchors,
         sorted);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template int row_tiles<T>(int);                                                                            \
  template int column_tiles<T>(int);                                                                         \
  template void merge_statistics<T>(PartialStatistics<T>, PartialStatistics<T>, NegativeStatistics<T>,       \
                                    Stream);                                                                 \
  template void sort_gradients<T>(const T *, const int64_t *, const T *, const T *, int64_t,                 \
                                  SumGradients<T>, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

#define FASTDML_FOR_INPUT(Input)                                                                             \
  template void begin_statistics<Input>(                                                                     \
      const PairProblem<Accumulator<Input>> &, const StoredRows<Input> &, bool, const Accumulator<Input> *,  \
      const int64_t *, PairRows<Accumulator<Input>>, NegativeStatistics<Accumulator<Input>>, Stream);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(torch::headeronly::Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
