#include "cuda/pair_rows.h"

#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int row_warps = threads / warp_size;

dim3 blocks(int64_t work, int64_t per_block) {
  return dim3(static_cast<unsigned>((work + per_block - 1) / per_block));
}

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * row_warps + threadIdx.x / warp_size;
}

// The first of `count` ascending labels that is not below `label` or, where `beyond`, that is above it.
__device__ __forceinline__ int64_t first_label(const int64_t *labels, int64_t count, int64_t label,
                                               bool beyond) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (labels[middle] < label || (beyond && labels[middle] == label))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

__global__ void __launch_bounds__(threads, 1)
    lay_out_kernel(SortedLabels side, SortedLabels other, Layout out) {
  const int64_t k = thread_index();
  if (k >= side.count)
    return;
  out.order[k] = side.rows[k];
  out.start[k] = static_cast<int32_t>(first_label(other.labels, other.count, side.labels[k], false));
  out.end[k] = static_cast<int32_t>(first_label(other.labels, other.count, side.labels[k], true));
}

// own[k] = base + k * step
__global__ void __launch_bounds__(threads, 1)
    fill_own_kernel(int32_t *own, int64_t count, int base, int step) {
  const int64_t k = thread_index();
  if (k < count)
    own[k] = base + static_cast<int32_t>(k) * step;
}

__global__ void __launch_bounds__(threads, 1) find_places_kernel(SortedLabels side, int32_t *places) {
  const int64_t k = thread_index();
  if (k < side.count)
    places[side.rows[k]] = static_cast<int32_t>(k);
}

__global__ void __launch_bounds__(threads, 1)
    find_own_kernel(const int64_t *given, const int64_t *order, int64_t anchors, const int32_t *places,
                    int64_t candidates, int32_t *own) {
  const int64_t k = thread_index();
  if (k >= anchors)
    return;
  const int64_t candidate = given[order[k]];
  own[k] = candidate >= 0 && candidate < candidates ? places[candidate] : -1;
}

template <typename Input>
__global__ void __launch_bounds__(threads, 1)
    gather_rows_kernel(Embeddings<Input> embeddings, bool normalised, const int64_t *order, int64_t rows,
                       int64_t width, Input *stored, Accumulator<Input> *norms) {
  using T = Accumulator<Input>;
  const DeviceMath<T> math;
  const int64_t k = row_of_warp();
  if (k >= rows)
    return;
  const int lane = threadIdx.x % warp_size;
  const Input *row = embeddings.data + order[k] * embeddings.row_stride;
  T squares = T(0);
  for (int64_t d = lane; d < width; d += warp_size) {
    const T value = static_cast<T>(row[d * embeddings.column_stride]);
    squares = math.fma(value, value, squares);
  }
  const T norm = math.sqrt(warp_sum(squares));
  const T divisor = divisor_of(norm);
  for (int64_t d = lane; d < width; d += warp_size) {
    const Input given = row[d * embeddings.column_stride];
    Input &out = stored[k * width + d];
    if (!normalised)
      out = given;
    else if constexpr (keeps_length<Input>)
      out = static_cast<Input>(static_cast<T>(given) * power_for(divisor));
    else
      out = static_cast<Input>(static_cast<T>(given) / divisor);
  }
  if (lane == 0)
    norms[k] = norm;
}

template <typename T>
__global__ void __launch_bounds__(threads, 1) find_poison_kernel(const T *norms, int64_t count, T *poison) {
  const int64_t k = thread_index();
  if (k >= count)
    return;
  const T trace = norms[k] * T(0); // 0 or NaN; whichever rows write the NaN, it is the same
  if (!(trace == T(0)))
    *poison = trace;
}

template <typename T, int length>
__global__ void __launch_bounds__(threads, 1)
    add_kernel(T *sum, const T *part, const T *factor, int64_t count) {
  const int64_t k = thread_index() * length;
  if (k >= count)
    return;
  const T times = factor ? *factor : T(1);
  auto total = load<length>(sum + k);
  const auto addend = load<length>(part + k);
#pragma unroll
  for (int e = 0; e < length; ++e)
    total.at[e] += addend.at[e] * times;
  store(sum + k, total);
}

template <typename Input>
__global__ void __launch_bounds__(threads, 1)
    scatter_gradients_kernel(const Accumulator<Input> *grads, const Input *stored,
                             const Accumulator<Input> *norms, bool normalised, const int64_t *order,
                             int64_t rows, int64_t width, Input *out) {
  using T = Accumulator<Input>;
  const DeviceMath<T> math;
  const int64_t k = row_of_warp();
  if (k >= rows)
    return;
  const int lane = threadIdx.x % warp_size;
  const T *grad = grads + k * width;
  const Input *row = stored + k * width;
  Input *to = out + order[k] * width;
  if (!normalised) {
    for (int64_t d = lane; d < width; d += warp_size)
      to[d] = static_cast<Input>(grad[d]);
    return;
  }
  T along = T(0); // the stored length of the row cancels that of its gradient
  for (int64_t d = lane; d < width; d += warp_size)
    along = math.fma(grad[d], static_cast<T>(row[d]), along);
  along = warp_sum(along);
  T length = T(1);
  if constexpr (keeps_length<Input>)
    length = kept_length(norms[k]);
  const T divisor = divisor_of(norms[k]), turned_off = is_short(norms[k]) ? T(0) : along / length;
  for (int64_t d = lane; d < width; d += warp_size)
    to[d] = static_cast<Input>((grad[d] * length - turned_off * static_cast<T>(row[d])) / divisor);
}

} // namespace

void lay_out(SortedLabels side, SortedLabels other, Layout out, Stream stream) {
  launch(lay_out_kernel, blocks(side.count, threads), threads, stream, side, other, out);
}

void fill_own(int32_t *own, int64_t count, Stream stream) {
  launch(fill_own_kernel, blocks(count, threads), threads, stream, own, count, 0, 1);
}

void clear_own(int32_t *own, int64_t count, Stream stream) {
  launch(fill_own_kernel, blocks(count, threads), threads, stream, own, count, -1, 0);
}

void find_own(const int64_t *given, const int64_t *order, int64_t anchors, SortedLabels candidates,
              int32_t *places, int32_t *own, Stream stream) {
  launch(find_places_kernel, blocks(candidates.count, threads), threads, stream, candidates, places);
  launch(find_own_kernel, blocks(anchors, threads), threads, stream, given, order, anchors, places,
         candidates.count, own);
}

template <typename Input>
void gather_rows(Embeddings<Input> embeddings, bool normalised, const int64_t *order, int64_t rows,
                 int64_t width, Input *stored, Accumulator<Input> *norms, Stream stream) {
  launch(gather_rows_kernel<Input>, blocks(rows, row_warps), threads, stream, embeddings, normalised, order,
         rows, width, stored, norms);
}

template <typename T> void find_poison(const T *norms, int64_t count, T *poison, Stream stream) {
  launch(find_poison_kernel<T>, blocks(count, threads), threads, stream, norms, count, poison);
}

template <typename T> void add(T *sum, const T *part, const T *factor, int64_t count, Stream stream) {
  constexpr int length = 16 / sizeof(T);
  const bool wide = count % length == 0 && reinterpret_cast<uintptr_t>(sum) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(part) % 16 == 0;
  const auto kernel = wide ? add_kernel<T, length> : add_kernel<T, 1>;
  const int64_t work = wide ? count / length : count;
  launch(kernel, blocks(work, threads), threads, stream, sum, part, factor, count);
}

template <typename Input>
void scatter_gradients(const Accumulator<Input> *grads, const Input *stored, const Accumulator<Input> *norms,
                       bool normalised, const int64_t *order, int64_t rows, int64_t width, Input *out,
                       Stream stream) {
  launch(scatter_gradients_kernel<Input>, blocks(rows, row_warps), threads, stream, grads, stored, norms,
         normalised, order, rows, width, out);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void find_poison<T>(const T *, int64_t, T *, Stream);                                             \
  template void add<T>(T *, const T *, const T *, int64_t, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

#define FASTDML_FOR_INPUT(Input)                                                                             \
  template void gather_rows<Input>(Embeddings<Input>, bool, const int64_t *, int64_t, int64_t, Input *,      \
                                   Accumulator<Input> *, Stream);                                            \
  template void scatter_gradients<Input>(const Accumulator<Input> *, const Input *,                          \
                                         const Accumulator<Input> *, bool, const int64_t *, int64_t,         \
                                         int64_t, Input *, Stream);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(torch::headeronly::Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
