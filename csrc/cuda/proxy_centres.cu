#include "cuda/proxy_centres.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cuda/device_math.h"
#include "cuda/row_length.h"
#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int held = 4; // coordinates of a gradient that a lane sums at once

// Under the root of a distance; fastdml/rules/proxy.py states the same.
constexpr double apart = 1e-5;

dim3 blocks_of_warps(int64_t count) { return dim3(static_cast<unsigned>((count + warps - 1) / warps)); }

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % warp_size); }

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
}

// Of the chunk's centre j in stored order.
__device__ __forceinline__ int64_t packed_row(const ClassChunk &chunk, int64_t j) {
  return j % chunk.per_class * chunk.classes + j / chunk.per_class;
}

// In every lane.
template <typename T>
__device__ __forceinline__ T inner_product(const T *a, const T *b, int64_t width, int lane) {
  const DeviceMath<T> math;
  T sum = T(0);
  for (int64_t d = lane; d < width; d += warp_size)
    sum = math.fma(a[d], b[d], sum);
  return warp_sum(sum);
}

// The distance of two centres of length one, from their inner product.
template <typename T> __device__ __forceinline__ T distance(T product) {
  return DeviceMath<T>().sqrt(T(2 + apart) - 2 * product);
}

// One centre a warp. Of centres in columns, a warp's neighbours read what is left of its sectors.
template <typename T, typename Input>
__global__ void __launch_bounds__(threads, 1)
    measure_kernel(StoredCentres<const Input> stored, int64_t count, int64_t width, bool normalised, T *norms,
                   T *poison) {
  const DeviceMath<T> math;
  const int64_t j = warp_index();
  if (j >= count)
    return;
  const int lane = lane_index();
  const Input *centre = stored.data + j * stored.centre_stride;
  T squares = T(0), zeros = T(0);
  for (int64_t d = lane; d < width; d += warp_size) {
    const T value = static_cast<T>(centre[d * stored.width_stride]);
    squares = math.fma(value, value, squares);
    zeros += value * T(0);
  }
  const T norm = normalised ? math.sqrt(warp_sum(squares)) : T(1);
  const T trace = normalised ? norm * T(0) : warp_sum(zeros); // 0 or NaN, the same whoever writes it
  if (lane > 0)
    return;
  norms[j] = norm;
  if (!(trace == T(0)))
    *poison = trace;
}

template <typename T, typename Input>
__global__ void __launch_bounds__(threads, 1)
    pack_kernel(StoredCentres<const Input> stored, ClassChunk chunk, const T *norms, T *packed) {
  const int64_t j = warp_index();
  if (j >= chunk.classes * chunk.per_class)
    return;
  const int64_t centre = chunk.first * chunk.per_class + j;
  const Input *from = stored.data + centre * stored.centre_stride;
  T *to = packed + packed_row(chunk, j) * chunk.width;
  const T divisor = divisor_of(norms[centre]);
  for (int64_t d = lane_index(); d < chunk.width; d += warp_size)
    to[d] = static_cast<T>(from[d * stored.width_stride]) / divisor;
}

// One class a block of threads.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    sum_distances_kernel(ClassChunk chunk, const T *packed, T *spread) {
  __shared__ T sums[warps];
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = lane_index();
  const int64_t step = chunk.classes * chunk.width; // from centre to centre of a class
  const T *first = packed + blockIdx.x * chunk.width;
  T sum = T(0);
  for (int64_t s = warp; s < chunk.per_class; s += warps)
    for (int64_t t = 0; t < s; ++t)
      sum += distance(inner_product(first + s * step, first + t * step, chunk.width, lane));
  if (lane == 0)
    sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x > 0)
    return;
  T total = T(0);
  for (int w = 0; w < warps; ++w)
    total += sums[w];
  spread[blockIdx.x] = total;
}

// One centre a warp. Inner products are made again for every run of coordinates that a warp can hold.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    add_distance_gradients_kernel(ClassChunk chunk, const T *packed, const T *grad_spread, T *packed_grads) {
  const DeviceMath<T> math;
  const int64_t row = warp_index();
  if (row >= chunk.classes * chunk.per_class)
    return;
  const int lane = lane_index();
  const int64_t width = chunk.width, own_class = row % chunk.classes;
  const T *own = packed + row * width;
  const T grad = grad_spread[own_class];
  for (int64_t start = 0; start < width; start += held * warp_size) {
    T sum[held] = {};
    for (int64_t k = 0; k < chunk.per_class; ++k) {
      const T *other = packed + (k * chunk.classes + own_class) * width;
      if (other == own)
        continue;
      const T weight = -grad / distance(inner_product(own, other, width, lane));
#pragma unroll
      for (int e = 0; e < held; ++e) {
        const int64_t d = start + e * warp_size + lane;
        if (d < width)
          sum[e] = math.fma(weight, other[d], sum[e]);
      }
    }
#pragma unroll
    for (int e = 0; e < held; ++e) {
      const int64_t d = start + e * warp_size + lane;
      if (d < width)
        packed_grads[row * width + d] += sum[e];
    }
  }
}

template <typename T, typename Input>
__global__ void __launch_bounds__(threads, 1)
    unpack_kernel(ClassChunk chunk, const T *packed_grads, const T *packed, const T *norms, bool normalised,
                  StoredCentres<Input> grads) {
  const int64_t j = warp_index();
  if (j >= chunk.classes * chunk.per_class)
    return;
  const int lane = lane_index();
  const int64_t centre = chunk.first * chunk.per_class + j, row = packed_row(chunk, j);
  const T *grad = packed_grads + row * chunk.width, *unit = packed + row * chunk.width;
  const T norm = norms[centre], divisor = divisor_of(norm);
  const T product = normalised ? inner_product(grad, unit, chunk.width, lane) : T(0);
  const T along = is_short(norm) ? T(0) : product;
  Input *to = grads.data + centre * grads.centre_stride;
  for (int64_t d = lane; d < chunk.width; d += warp_size)
    to[d * grads.width_stride] = static_cast<Input>((grad[d] - along * unit[d]) / divisor);
}

} // namespace

template <typename T, typename Input>
void measure_centres(StoredCentres<const Input> stored, int64_t count, int64_t width, bool normalised,
                     T *norms, T *poison, Stream stream) {
  launch(measure_kernel<T, Input>, blocks_of_warps(count), threads, stream, stored, count, width, normalised,
         norms, poison);
}

template <typename T, typename Input>
void pack_centres(StoredCentres<const Input> stored, const ClassChunk &chunk, const T *norms, T *packed,
                  Stream stream) {
  launch(pack_kernel<T, Input>, blocks_of_warps(chunk.centres()), threads, stream, stored, chunk, norms,
         packed);
}

template <typename T> void sum_distances(const ClassChunk &chunk, const T *packed, T *spread, Stream stream) {
  launch(sum_distances_kernel<T>, dim3(static_cast<unsigned>(chunk.classes)), threads, stream, chunk, packed,
         spread);
}

template <typename T>
void add_distance_gradients(const ClassChunk &chunk, const T *packed, const T *grad_spread, T *packed_grads,
                            Stream stream) {
  launch(add_distance_gradients_kernel<T>, blocks_of_warps(chunk.centres()), threads, stream, chunk, packed,
         grad_spread, packed_grads);
}

template <typename T, typename Input>
void unpack_gradients(const ClassChunk &chunk, const T *packed_grads, const T *packed, const T *norms,
                      bool normalised, StoredCentres<Input> grads, Stream stream) {
  launch(unpack_kernel<T, Input>, blocks_of_warps(chunk.centres()), threads, stream, chunk, packed_grads,
         packed, norms, normalised, grads);
}

#define FASTDML_FOR_INPUT(T, Input)                                                                          \
  template void measure_centres<T, Input>(StoredCentres<const Input>, int64_t, int64_t, bool, T *, T *,      \
                                          Stream);                                                           \
  template void pack_centres<T, Input>(StoredCentres<const Input>, const ClassChunk &, const T *, T *,       \
                                       Stream);                                                              \
  template void unpack_gradients<T, Input>(const ClassChunk &, const T *, const T *, const T *, bool,        \
                                           StoredCentres<Input>, Stream);

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void sum_distances<T>(const ClassChunk &, const T *, T *, Stream);                                \
  template void add_distance_gradients<T>(const ClassChunk &, const T *, const T *, T *, Stream);            \
  FASTDML_FOR_INPUT(T, float)                                                                                \
  FASTDML_FOR_INPUT(T, double)                                                                               \
  FASTDML_FOR_INPUT(T, torch::headeronly::Half)                                                              \
  FASTDML_FOR_INPUT(T, torch::headeronly::BFloat16)
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
