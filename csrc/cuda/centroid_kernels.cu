#include "cuda/centroid_kernels.h"

#include <limits>

#include "cuda/closeness.h"
#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int together = 4; // points that a lane reads before any is sorted in

template <typename T> constexpr T infinity = std::numeric_limits<T>::infinity();

dim3 blocks(int64_t work, int64_t per_block) {
  return dim3(static_cast<unsigned>((work + per_block - 1) / per_block));
}

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % warp_size); }

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
}

// One row a warp.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    square_lengths_kernel(const T *rows, int64_t count, int64_t width, T *squares) {
  const DeviceMath<T> math;
  const int64_t row = warp_index();
  if (row >= count)
    return;
  T sum = T(0), trace = T(0); // trace: 0 or NaN
  for (int64_t d = lane_index(); d < width; d += warp_size) {
    const T value = rows[row * width + d];
    sum = math.fma(value, value, sum);
    trace += value * T(0);
  }
  sum = warp_sum(sum) + warp_sum(trace);
  if (lane_index() == 0)
    squares[row] = sum;
}

// The points nearest to a row so far, the nearest first, in memory that the lanes of a warp share.
template <typename T> class NearestPoints {
public:
  __device__ __forceinline__ NearestPoints(T *keys, int64_t *points, int64_t k)
      : keys_(keys), points_(points), k_(k) {}

  __device__ __forceinline__ void clear() const {
    for (int64_t at = lane_index(); at < k_; at += warp_size) {
      keys_[at] = infinity<T>;
      points_[at] = -1;
    }
    __syncwarp();
  }

  // The key that a point must stay below to be among the nearest.
  __device__ __forceinline__ T bound() const { return keys_[k_ - 1]; }

  // The same point in every lane. It comes behind its equals, and the last one falls off the end.
  __device__ __forceinline__ void insert(T key, int64_t point) const {
    for (int64_t first = (k_ - 1) / warp_size * warp_size; first >= 0; first -= warp_size) {
      const int64_t at = first + lane_index();
      const bool moves = at < k_ && keys_[at] > key;
      const bool takes_previous = moves && at > 0 && keys_[at - 1] > key;
      const T new_key = takes_previous ? keys_[at - 1] : key;
      const int64_t new_point = takes_previous ? points_[at - 1] : point;
      __syncwarp(); // all have read
      if (moves) {
        keys_[at] = new_key;
        points_[at] = new_point;
      }
    }
    __syncwarp(); // all have written
  }

private:
  T *const keys_;
  int64_t *const points_;
  const int64_t k_;
};

// One row a warp. Points are sorted in by half their squared length less the product.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    gather_nearest_kernel(NeighbourProblem<T> problem, CentroidBlock<T> block, T *keys, int64_t *found) {
  const int64_t row = warp_index(), sample = block.row + row;
  if (row >= block.rows)
    return;
  const int lane = lane_index();
  const int64_t label = problem.labels[sample];
  const T *products = block.products + row * block.stride;
  const T *squares = problem.point_squares + block.column;
  const int64_t *labels = problem.point_labels + block.column;
  const NearestPoints<T> nearest(keys + row * problem.k, found + sample * problem.k, problem.k);
  if (block.column == 0)
    nearest.clear();
  T bound = nearest.bound();
  for (int start = 0; start < block.columns; start += together * warp_size) {
    T key[together];
#pragma unroll
    for (int e = 0; e < together; ++e) {
      const int j = start + e * warp_size + lane;
      key[e] = j < block.columns && labels[j] != label ? squares[j] / 2 - products[j] : infinity<T>;
    }
#pragma unroll
    for (int e = 0; e < together; ++e)
      while (const unsigned nearer = __ballot_sync(whole_warp, key[e] < bound && key[e] > -infinity<T>)) {
        const int from = __ffs(static_cast<int>(nearer)) - 1;
        nearest.insert(__shfl_sync(whole_warp, key[e], from), block.column + start + e * warp_size + from);
        bound = nearest.bound();
        if (lane == from)
          key[e] = infinity<T>;
      }
  }
}

// A row and what it compares points with.
template <typename T> class HingeRow {
public:
  struct Hinge {
    T slack, distance; // slack: how much nearer than the limit
  };

  __device__ __forceinline__ HingeRow(const HingeProblem<T> &problem, int64_t row)
      : point_squares_(problem.point_squares), own_(problem.own[row]), square_(problem.squares[row]),
        limit_(problem.limits[row]) {}

  // No slack of the row's own point, but NaN wherever either is not finite.
  __device__ __forceinline__ Hinge at(int64_t point, T product) const {
    const T squares = square_ + point_squares_[point];
    if (point == own_)
      return {squares == squares ? T(0) : squares, T(0)};
    const T closeness = closeness_of(Closeness::euclidean, product, squares);
    return {limit_ + closeness, -closeness};
  }

private:
  const T *const point_squares_;
  const int64_t own_;
  const T square_, limit_;
};

// One row a block of threads.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    gather_hinges_kernel(HingeProblem<T> problem, CentroidBlock<T> block, T *sums, T *counts) {
  __shared__ T warp_sums[warps];
  __shared__ int warp_counts[warps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / warp_size;
  const int64_t sample = block.row + blockIdx.x;
  const T *products = block.products + blockIdx.x * block.stride;
  const HingeRow<T> row(problem, sample);
  T sum = T(0);
  int count = 0;
#pragma unroll 4
  for (int j = thread; j < block.columns; j += threads) {
    const T slack = row.at(block.column + j, products[j]).slack;
    sum += slack <= T(0) ? T(0) : slack; // NaN counts
    count += slack > T(0);
  }
  sum = warp_sum(sum);
  count = warp_sum(count);
  if (lane_index() == 0) {
    warp_sums[warp] = sum;
    warp_counts[warp] = count;
  }
  __syncthreads();
  if (thread > 0)
    return;
  for (int w = 1; w < warps; ++w) {
    sum += warp_sums[w];
    count += warp_counts[w];
  }
  sums[sample] = block.column > 0 ? sums[sample] + sum : sum;
  counts[sample] = block.column > 0 ? counts[sample] + static_cast<T>(count) : static_cast<T>(count);
}

// A thread for each point of each row.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    weigh_hinges_kernel(HingeProblem<T> problem, CentroidBlock<T> block, const T *grad) {
  const int at = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  const int row = at / block.columns, j = at % block.columns;
  if (row >= block.rows)
    return;
  const int64_t sample = block.row + row;
  T &entry = block.products[row * block.stride + j];
  const auto [slack, distance] = HingeRow<T>(problem, sample).at(block.column + j, entry);
  if (slack > T(0) && distance > T(0))
    entry = grad[sample] / distance;
  else
    entry = slack == slack ? T(0) : slack;
}

} // namespace

template <typename T>
void square_lengths(const T *rows, int64_t count, int64_t width, T *squares, Stream stream) {
  launch(square_lengths_kernel<T>, blocks(count, warps), threads, stream, rows, count, width, squares);
}

template <typename T>
void gather_nearest(const NeighbourProblem<T> &problem, const CentroidBlock<T> &block, T *keys,
                    int64_t *found, Stream stream) {
  launch(gather_nearest_kernel<T>, blocks(block.rows, warps), threads, stream, problem, block, keys, found);
}

template <typename T>
void gather_hinges(const HingeProblem<T> &problem, const CentroidBlock<T> &block, T *sums, T *counts,
                   Stream stream) {
  launch(gather_hinges_kernel<T>, blocks(block.rows, 1), threads, stream, problem, block, sums, counts);
}

template <typename T>
void weigh_hinges(const HingeProblem<T> &problem, const CentroidBlock<T> &block, const T *grad,
                  Stream stream) {
  launch(weigh_hinges_kernel<T>, blocks(int64_t(block.rows) * block.columns, threads), threads, stream,
         problem, block, grad);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void square_lengths<T>(const T *, int64_t, int64_t, T *, Stream);                                 \
  template void gather_nearest<T>(const NeighbourProblem<T> &, const CentroidBlock<T> &, T *, int64_t *,     \
                                  Stream);                                                                   \
  template void gather_hinges<T>(const HingeProblem<T> &, const CentroidBlock<T> &, T *, T *, Stream);       \
  template void weigh_hinges<T>(const HingeProblem<T> &, const CentroidBlock<T> &, const T *, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
