#include "cuda/pair_rows.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cuda/device_math.h"
#include "cuda/row_length.h"
#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int row_warps = threads / warp_size;
constexpr int range_threads = 1024;

// The lifted gradients stay below this power of two: weights, at most twice that, keep far from fp16's
// largest number, and a scale of e^80 from fp32's.
constexpr int range_exponent = 10;
constexpr int largest_lift = 100;

unsigned blocks(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
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
    lay_out_kernel(SortedLabels side, SortedLabels other, int64_t *order, int32_t *start, int32_t *end) {
  const int64_t k = thread_index();
  if (k >= side.count)
    return;
  order[k] = side.rows[k];
  start[k] = static_cast<int32_t>(first_label(other.labels, other.count, side.labels[k], false));
  end[k] = static_cast<int32_t>(first_label(other.labels, other.count, side.labels[k], true));
}

template <typename Input>
__global__ void __launch_bounds__(threads, 1)
    gather_units_kernel(Embeddings<Input> embeddings, const int64_t *order, int64_t rows, int64_t width,
                        Input *units, Accumulator<Input> *norms, Accumulator<Input> *poison) {
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
    const T value = static_cast<T>(row[d * embeddings.column_stride]);
    if constexpr (keeps_length<Input>)
      units[k * width + d] = static_cast<Input>(value * power_for(divisor));
    else
      units[k * width + d] = static_cast<Input>(value / divisor);
  }
  if (lane == 0) {
    norms[k] = norm;
    const T trace = norm * T(0); // 0 or NaN; whichever rows write the NaN, it is the same
    if (poison && !(trace == T(0)))
      *poison = trace;
  }
}

template <typename T>
__global__ void __launch_bounds__(range_threads, 1)
    find_range_kernel(const T *grads, int64_t count, T *range) {
  __shared__ T largest[range_threads / warp_size];
  T most = T(0);
  for (int64_t k = threadIdx.x; k < count; k += range_threads) {
    const T size = grads[k] < T(0) ? -grads[k] : grads[k];
    most = size > most ? size : most;
  }
  most = warp_max(most);
  if (threadIdx.x % warp_size == 0)
    largest[threadIdx.x / warp_size] = most;
  __syncthreads();
  if (threadIdx.x >= warp_size)
    return;
  most = warp_max(largest[threadIdx.x]);
  if (threadIdx.x == 0) {
    const bool usable = most > T(0) && most * T(0) == T(0);
    int exponent = 0; // most < 2^exponent
    if (usable)
      frexp(most, &exponent);
    int lift = usable ? range_exponent - exponent : 0;
    lift = lift > largest_lift ? largest_lift : lift < -largest_lift ? -largest_lift : lift;
    range[0] = ldexp(T(1), lift);
    range[1] = ldexp(T(1), -lift);
  }
}

template <typename T>
__global__ void __launch_bounds__(threads, 1)
    scale_rows_kernel(RowScales<T> scales, const T *grads, const int64_t *order, const T *range, int64_t rows,
                      T *scaled_negative, T *scaled_positive) {
  const int64_t k = thread_index();
  if (k >= rows)
    return;
  const T grad = grads[order[k]] * (range ? range[0] : T(1));
  scaled_negative[k] = scales.negative[k] * grad;
  scaled_positive[k] = scales.positive[k] * grad;
}

template <typename T, int length>
__global__ void __launch_bounds__(threads, 1) add_kernel(T *sum, const T *part, int64_t count) {
  const int64_t k = thread_index() * length;
  if (k >= count)
    return;
  auto total = load<length>(sum + k);
  const auto addend = load<length>(part + k);
#pragma unroll
  for (int e = 0; e < length; ++e)
    total.at[e] += addend.at[e];
  store(sum + k, total);
}

template <typename Input>
__global__ void __launch_bounds__(threads, 1)
    scatter_gradients_kernel(const Accumulator<Input> *grads, const Input *units,
                             const Accumulator<Input> *norms, const int64_t *order,
                             const Accumulator<Input> *range, int64_t rows, int64_t width, Input *out) {
  using T = Accumulator<Input>;
  const DeviceMath<T> math;
  const int64_t k = row_of_warp();
  if (k >= rows)
    return;
  const int lane = threadIdx.x % warp_size;
  const T *grad = grads + k * width;
  const Input *unit = units + k * width;
  T along = T(0); // the stored length of the row cancels that of its gradient
  for (int64_t d = lane; d < width; d += warp_size)
    along = math.fma(grad[d], static_cast<T>(unit[d]), along);
  along = warp_sum(along);
  const T divisor = divisor_of(norms[k]), length = stored_length<Input>(norms[k]);
  const bool is_short = norms[k] < static_cast<T>(smallest_norm);
  const T turned_off = is_short ? T(0) : along / length, lowered = range ? range[1] : T(1);
  for (int64_t d = lane; d < width; d += warp_size) {
    const T turning = (grad[d] * length - turned_off * static_cast<T>(unit[d])) * lowered;
    out[order[k] * width + d] = static_cast<Input>(turning / divisor);
  }
}

} // namespace

void lay_out(SortedLabels side, SortedLabels other, int64_t *order, int32_t *start, int32_t *end,
             Stream stream) {
  launch(lay_out_kernel, dim3(blocks(side.count, threads)), threads, stream, side, other, order, start, end);
}

template <typename Input>
void gather_units(Embeddings<Input> embeddings, const int64_t *order, int64_t rows, int64_t width,
                  Input *units, Accumulator<Input> *norms, Accumulator<Input> *poison, Stream stream) {
  launch(gather_units_kernel<Input>, dim3(blocks(rows, row_warps)), threads, stream, embeddings, order, rows,
         width, units, norms, poison);
}

template <typename T> void find_range(const T *grads, int64_t count, T *range, Stream stream) {
  launch(find_range_kernel<T>, dim3(1), range_threads, stream, grads, count, range);
}

template <typename T>
void scale_rows(RowScales<T> scales, const T *grads, const int64_t *order, const T *range, int64_t rows,
                T *scaled_negative, T *scaled_positive, Stream stream) {
  launch(scale_rows_kernel<T>, dim3(blocks(rows, threads)), threads, stream, scales, grads, order, range,
         rows, scaled_negative, scaled_positive);
}

template <typename T> void add(T *sum, const T *part, int64_t count, Stream stream) {
  constexpr int length = 16 / sizeof(T);
  const bool wide = count % length == 0 && reinterpret_cast<uintptr_t>(sum) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(part) % 16 == 0;
  if (wide)
    launch(add_kernel<T, length>, dim3(blocks(count / length, threads)), threads, stream, sum, part, count);
  else
    launch(add_kernel<T, 1>, dim3(blocks(count, threads)), threads, stream, sum, part, count);
}

template <typename Input>
void scatter_gradients(const Accumulator<Input> *grads, const Input *units, const Accumulator<Input> *norms,
                       const int64_t *order, const Accumulator<Input> *range, int64_t rows, int64_t width,
                       Input *out, Stream stream) {
  launch(scatter_gradients_kernel<Input>, dim3(blocks(rows, row_warps)), threads, stream, grads, units, norms,
         order, range, rows, width, out);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void find_range<T>(const T *, int64_t, T *, Stream);                                              \
  template void scale_rows<T>(RowScales<T>, const T *, const int64_t *, const T *, int64_t, T *, T *,        \
                              Stream);                                                                       \
  template void add<T>(T *, const T *, int64_t, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

#define FASTDML_FOR_INPUT(Input)                                                                             \
  template void gather_units<Input>(Embeddings<Input>, const int64_t *, int64_t, int64_t, Input *,           \
                                    Accumulator<Input> *, Accumulator<Input> *, Stream);                     \
  template void scatter_gradients<Input>(const Accumulator<Input> *, const Input *,                          \
                                         const Accumulator<Input> *, const int64_t *,                        \
                                         const Accumulator<Input> *, int64_t, int64_t, Input *, Stream);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(torch::headeronly::Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
