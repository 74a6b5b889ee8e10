#include "cuda/threshold_kernels.h"

#include <limits>

#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int together = 8;      // thresholds compared with one read of the products
constexpr int piece_length = 64; // columns that a thread sums in T before it goes on in double
constexpr int columns = 4;       // weights that a thread computes

dim3 blocks(int64_t count) { return dim3(static_cast<unsigned>(count)); }

// An anchor of a block, its products and its thresholds.
template <typename T> class Anchor {
public:
  __device__ Anchor(const ThresholdProblem<T> &problem, const ThresholdBlock<T> &block, int64_t row)
      : products(block.products + row * block.stride), first(problem.offsets[block.row + row]),
        end(problem.offsets[block.row + row + 1]), problem_(problem),
        label_(problem.anchors.labels[block.row + row]),
        own_(problem.own ? problem.own[block.row + row] : -1),
        square_(problem.anchors.squares[block.row + row]) {}

  // How close candidate j is where it is a negative; else -inf, which lies beyond no threshold.
  __device__ __forceinline__ T negative(int64_t j) const {
    const T product = products[j];
    if (problem_.candidates.labels[j] == label_ || j == own_)
      return -std::numeric_limits<T>::infinity();
    if (problem_.closeness == Closeness::inner)
      return product;
    return closeness_of(problem_.closeness, product, square_ + problem_.candidates.squares[j]);
  }

  T *const products;        // [candidates]
  const int64_t first, end; // of its thresholds

private:
  const ThresholdProblem<T> &problem_;
  const int64_t label_, own_;
  const T square_;
};

// One anchor a block of threads.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    gather_beyond_kernel(ThresholdProblem<T> problem, ThresholdBlock<T> block, double *counts, double *sums) {
  __shared__ int warp_counts[warps][together];
  __shared__ double warp_sums[warps][together];
  const int64_t candidates = problem.candidates.count, piece = int64_t(threads) * piece_length;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / warp_size;
  const Anchor<T> anchor(problem, block, blockIdx.x);
  for (int64_t first = anchor.first; first < anchor.end; first += together) {
    T threshold[together];
    int count[together] = {};
    double sum[together] = {};
#pragma unroll
    for (int k = 0; k < together; ++k)
      threshold[k] =
          first + k < anchor.end ? problem.thresholds[first + k] : std::numeric_limits<T>::infinity();
    for (int64_t start = 0; start < candidates; start += piece) {
      const int64_t stop = start + piece < candidates ? start + piece : candidates;
      T part[together] = {};
#pragma unroll 4
      for (int64_t j = start + thread; j < stop; j += threads) {
        const T c = anchor.negative(j);
#pragma unroll
        for (int k = 0; k < together; ++k)
          if (c > threshold[k]) {
            ++count[k];
            part[k] += c - threshold[k];
          }
      }
#pragma unroll
      for (int k = 0; k < together; ++k)
        sum[k] += part[k];
    }
#pragma unroll
    for (int k = 0; k < together; ++k) {
      count[k] = warp_sum(count[k]);
      sum[k] = warp_sum(sum[k]);
      if (thread % warp_size == 0) {
        warp_counts[warp][k] = count[k];
        warp_sums[warp][k] = sum[k];
      }
    }
    __syncthreads();
    if (thread < together && first + thread < anchor.end) {
      int total = 0;
      double exceeded = 0;
      for (int w = 0; w < warps; ++w) {
        total += warp_counts[w][thread];
        exceeded += warp_sums[w][thread];
      }
      counts[first + thread] = total;
      sums[first + thread] = exceeded;
    }
    __syncthreads(); // the next thresholds take the place of these
  }
}

// `across` blocks of threads an anchor.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    weigh_products_kernel(ThresholdProblem<T> problem, ThresholdBlock<T> block, const double *grad_sums,
                          int across) {
  __shared__ T threshold[threads], grad[threads];
  const int64_t candidates = problem.candidates.count;
  const int64_t column = int64_t(blockIdx.x % across) * threads * columns + threadIdx.x;
  const Anchor<T> anchor(problem, block, blockIdx.x / across);
  T c[columns], share[columns] = {};
#pragma unroll
  for (int e = 0; e < columns; ++e) {
    const int64_t j = column + e * threads;
    c[e] = j < candidates ? anchor.negative(j) : -std::numeric_limits<T>::infinity();
  }
  for (int64_t first = anchor.first; first < anchor.end; first += threads) {
    const int number = static_cast<int>(anchor.end - first < threads ? anchor.end - first : threads);
    if (static_cast<int>(threadIdx.x) < number) {
      threshold[threadIdx.x] = problem.thresholds[first + threadIdx.x];
      grad[threadIdx.x] = static_cast<T>(grad_sums[first + threadIdx.x]);
    }
    __syncthreads();
    for (int k = 0; k < number; ++k)
#pragma unroll
      for (int e = 0; e < columns; ++e)
        share[e] += c[e] > threshold[k] ? grad[k] : T(0);
    __syncthreads(); // the next thresholds take the place of these
  }
#pragma unroll
  for (int e = 0; e < columns; ++e) {
    const int64_t j = column + e * threads;
    if (j < candidates)
      anchor.products[j] = share[e] * slope_of(problem.closeness, c[e]);
  }
}

template <typename T>
__global__ void __launch_bounds__(threads, 1)
    shorten_kernel(T *grads, const T *rows, const T *lengths, int64_t count, int64_t width) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (at < count * width)
    grads[at] -= lengths[at / width] * rows[at];
}

} // namespace

template <typename T>
void gather_beyond(const ThresholdProblem<T> &problem, const ThresholdBlock<T> &block, double *counts,
                   double *sums, Stream stream) {
  launch(gather_beyond_kernel<T>, blocks(block.rows), threads, stream, problem, block, counts, sums);
}

template <typename T>
void weigh_products(const ThresholdProblem<T> &problem, const ThresholdBlock<T> &block,
                    const double *grad_sums, Stream stream) {
  constexpr int64_t breadth = int64_t(threads) * columns;
  const int64_t across = (problem.candidates.count + breadth - 1) / breadth;
  launch(weigh_products_kernel<T>, blocks(block.rows * across), threads, stream, problem, block, grad_sums,
         static_cast<int>(across));
}

template <typename T>
void shorten(T *grads, const T *rows, const T *lengths, int64_t count, int64_t width, Stream stream) {
  launch(shorten_kernel<T>, blocks((count * width + threads - 1) / threads), threads, stream, grads, rows,
         lengths, count, width);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void gather_beyond<T>(const ThresholdProblem<T> &, const ThresholdBlock<T> &, double *, double *, \
                                 Stream);                                                                    \
  template void weigh_products<T>(const ThresholdProblem<T> &, const ThresholdBlock<T> &, const double *,    \
                                  Stream);                                                                   \
  template void shorten<T>(T *, const T *, const T *, int64_t, int64_t, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
