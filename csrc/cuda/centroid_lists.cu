#include "cuda/centroid_lists.h"

#include "cuda/device_math.h"
#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int held = 4;                      // coordinates that a lane sums at once
constexpr int run_length = held * warp_size; // coordinates that a warp sums at once

int64_t runs_of(int64_t width) { return (width + run_length - 1) / run_length; }

dim3 blocks(int64_t work, int64_t per_block) {
  return dim3(static_cast<unsigned>((work + per_block - 1) / per_block));
}

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % warp_size); }

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
}

template <typename T> __device__ __forceinline__ bool names_point(const ListedPoints<T> &listed, int64_t at) {
  return listed.listed[at] >= 0 && listed.listed[at] < listed.count;
}

// The derivative by the distance over the distance, 0 where a row and its point meet; NaN stays.
template <typename T> __device__ __forceinline__ T weight_of(T grad, T distance) {
  return distance == T(0) ? T(0) : grad / distance;
}

// One listed point a warp.
template <typename T>
__global__ void __launch_bounds__(threads, 1) measure_listed_kernel(ListedPoints<T> listed, T *distances) {
  const DeviceMath<T> math;
  const int64_t at = warp_index();
  if (at >= listed.samples * listed.length)
    return;
  T sum = T(0);
  if (names_point(listed, at)) {
    const T *row = listed.rows + at / listed.length * listed.width;
    const T *point = listed.points + listed.listed[at] * listed.width;
    for (int64_t d = lane_index(); d < listed.width; d += warp_size) {
      const T difference = row[d] - point[d];
      sum = math.fma(difference, difference, sum);
    }
  }
  sum = warp_sum(sum);
  if (lane_index() == 0)
    distances[at] = math.sqrt(sum);
}

// One run of the coordinates of one row a warp.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    gather_row_gradients_kernel(ListedPoints<T> listed, const T *grad, const T *distances, int64_t runs,
                                T *grad_rows) {
  const DeviceMath<T> math;
  const int64_t row = warp_index() / runs, start = warp_index() % runs * run_length + lane_index();
  if (row >= listed.samples)
    return;
  const T *own = listed.rows + row * listed.width;
  T sum[held] = {};
  for (int64_t at = row * listed.length; at < (row + 1) * listed.length; ++at) {
    if (!names_point(listed, at))
      continue;
    const T *point = listed.points + listed.listed[at] * listed.width;
    const T weight = weight_of(grad[at], distances[at]);
#pragma unroll
    for (int e = 0; e < held; ++e) {
      const int64_t d = start + e * warp_size;
      if (d < listed.width)
        sum[e] = math.fma(weight, own[d] - point[d], sum[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < held; ++e) {
    const int64_t d = start + e * warp_size;
    if (d < listed.width)
      grad_rows[row * listed.width + d] = sum[e];
  }
}

// What a listed entry adds to the gradient of its point.
template <typename T> struct PointPull {
  ListedPoints<T> listed;
  const T *grad, *distances;

  __device__ __forceinline__ T operator()(int64_t entry, int64_t point, int64_t d) const {
    const T own = listed.points[point * listed.width + d];
    const T row = listed.rows[entry / listed.length * listed.width + d];
    return weight_of(grad[entry], distances[entry]) * (own - row);
  }
};

// What a row adds to the sum of its group.
template <typename T> struct RowItself {
  const T *rows;
  int64_t width;

  __device__ __forceinline__ T operator()(int64_t entry, int64_t, int64_t d) const {
    return rows[entry * width + d];
  }
};

// How many entries belong to groups before this one.
__device__ __forceinline__ int64_t entries_before(const SortedGroups &sorted, int64_t group) {
  int64_t first = 0, end = sorted.entries;
  while (first < end) {
    const int64_t middle = first + (end - first) / 2;
    if (sorted.groups[middle] < group)
      first = middle + 1;
    else
      end = middle;
  }
  return first;
}

// `parts` warps, which divides those of a block, for each run of the coordinates of each group.
template <typename Value, typename Sum>
__global__ void __launch_bounds__(threads, 1)
    sum_groups_kernel(SortedGroups sorted, Value value, int64_t width, int64_t runs, int parts, Sum *sums) {
  __shared__ double partial[warps][run_length];
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = lane_index();
  const int part = warp % parts;
  const int64_t group = warp_index() / parts / runs, start = warp_index() / parts % runs * run_length + lane;
  double sum[held] = {};
  if (group < sorted.count) {
    const int64_t end = entries_before(sorted, group + 1);
    for (int64_t at = entries_before(sorted, group) + part; at < end; at += parts) {
      const int64_t entry = sorted.order[at];
#pragma unroll
      for (int e = 0; e < held; ++e) {
        const int64_t d = start + e * warp_size;
        if (d < width)
          sum[e] += value(entry, group, d);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < held; ++e)
    partial[warp][e * warp_size + lane] = sum[e];
  __syncthreads();
  if (part > 0 || group >= sorted.count)
    return;
#pragma unroll
  for (int e = 0; e < held; ++e) {
    const int64_t d = start + e * warp_size;
    for (int p = 1; p < parts; ++p)
      sum[e] += partial[warp + p][e * warp_size + lane];
    if (d < width)
      sums[group * width + d] = static_cast<Sum>(sum[e]);
  }
}

// Large groups are shared out among the warps of a block.
template <typename Value, typename Sum>
void launch_sum(const SortedGroups &sorted, const Value &value, int64_t width, Sum *sums, Stream stream) {
  const int parts = sorted.entries / warps > sorted.count ? warps : 1;
  launch(sum_groups_kernel<Value, Sum>, blocks(sorted.count * runs_of(width) * parts, warps), threads, stream,
         sorted, value, width, runs_of(width), parts, sums);
}

} // namespace

template <typename T> void measure_listed(const ListedPoints<T> &listed, T *distances, Stream stream) {
  launch(measure_listed_kernel<T>, blocks(listed.samples * listed.length, warps), threads, stream, listed,
         distances);
}

template <typename T>
void gather_row_gradients(const ListedPoints<T> &listed, const T *grad, const T *distances, T *grad_rows,
                          Stream stream) {
  const int64_t runs = runs_of(listed.width);
  launch(gather_row_gradients_kernel<T>, blocks(listed.samples * runs, warps), threads, stream, listed, grad,
         distances, runs, grad_rows);
}

template <typename T>
void gather_point_gradients(const ListedPoints<T> &listed, const T *grad, const T *distances,
                            const SortedGroups &sorted, T *grad_points, Stream stream) {
  launch_sum(sorted, PointPull<T>{listed, grad, distances}, listed.width, grad_points, stream);
}

template <typename T, typename Sum>
void sum_groups(const T *rows, int64_t width, const SortedGroups &sorted, Sum *sums, Stream stream) {
  launch_sum(sorted, RowItself<T>{rows, width}, width, sums, stream);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void measure_listed<T>(const ListedPoints<T> &, T *, Stream);                                     \
  template void gather_row_gradients<T>(const ListedPoints<T> &, const T *, const T *, T *, Stream);         \
  template void gather_point_gradients<T>(const ListedPoints<T> &, const T *, const T *,                     \
                                          const SortedGroups &, T *, Stream);                                \
  template void sum_groups<T, float>(const T *, int64_t, const SortedGroups &, float *, Stream);             \
  template void sum_groups<T, double>(const T *, int64_t, const SortedGroups &, double *, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
