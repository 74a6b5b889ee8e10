#include "cuda/half_weights.h"

#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

using torch::headeronly::Half;

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int range_threads = 1024;
constexpr int run = 4;

// Lifted weights stay below this power of two, fp16's largest number is just below the next; a lift stays in
// fp32.
constexpr int range_exponent = 15;
constexpr int largest_lift = 100;

__device__ __forceinline__ float size_of(float value) { return value < 0 ? -value : value; }

// The largest size in each row, one row a warp. A NaN never wins.
__global__ void __launch_bounds__(threads, 1)
    largest_of_rows_kernel(Strided<const float> weights, float *largest) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  if (i >= weights.rows)
    return;
  const float *row = weights.data + i * weights.stride;
  float most = 0;
  for (int j = static_cast<int>(threadIdx.x % warp_size) * run; j < weights.columns; j += warp_size * run) {
    const auto pack = load<run>(row + j);
#pragma unroll
    for (int e = 0; e < run; ++e) {
      const float size = j + e < weights.columns ? size_of(pack.at[e]) : 0;
      most = size > most ? size : most;
    }
  }
  most = warp_max(most);
  if (threadIdx.x % warp_size == 0)
    largest[i] = most;
}

__global__ void __launch_bounds__(range_threads, 1)
    find_range_kernel(const float *sizes, int count, float *range) {
  __shared__ float largest[range_threads / warp_size];
  float most = 0;
  for (int k = threadIdx.x; k < count; k += range_threads)
    most = sizes[k] > most ? sizes[k] : most;
  most = warp_max(most);
  if (threadIdx.x % warp_size == 0)
    largest[threadIdx.x / warp_size] = most;
  __syncthreads();
  if (threadIdx.x >= warp_size)
    return;
  most = warp_max(largest[threadIdx.x]);
  if (threadIdx.x == 0) {
    const bool usable = most > 0 && most * 0 == 0;
    int exponent = 0; // most < 2^exponent
    if (usable)
      frexp(most, &exponent);
    int lift = usable ? range_exponent - exponent : 0;
    lift = lift > largest_lift ? largest_lift : lift < -largest_lift ? -largest_lift : lift;
    range[0] = ldexp(1.0f, lift);
    range[1] = ldexp(1.0f, -lift);
  }
}

__global__ void __launch_bounds__(threads, 1)
    lift_kernel(Strided<const float> weights, const float *range, Strided<Half> out) {
  const int64_t i = blockIdx.y;
  const int j = static_cast<int>(blockIdx.x * threads + threadIdx.x) * run;
  if (j >= weights.columns)
    return;
  const auto pack = load<run>(weights.data + i * weights.stride + j);
  Pack<Half, run> lifted;
#pragma unroll
  for (int e = 0; e < run; ++e)
    lifted.at[e] = static_cast<Half>(pack.at[e] * range[0]);
  store(out.data + i * out.stride + j, lifted);
}

} // namespace

void lift_to_half(Strided<const float> weights, float *scratch, float *range, Strided<Half> out,
                  Stream stream) {
  launch(largest_of_rows_kernel, dim3((weights.rows + warps - 1) / warps), threads, stream, weights, scratch);
  launch(find_range_kernel, dim3(1), range_threads, stream, scratch, weights.rows, range);
  const int width = threads * run;
  launch(lift_kernel, dim3((weights.columns + width - 1) / width, weights.rows), threads, stream, weights,
         range, out);
}

} // namespace fastdml::cuda
