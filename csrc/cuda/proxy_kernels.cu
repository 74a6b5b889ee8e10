#include "cuda/proxy_kernels.h"

#include <limits>

#include "cuda/device_math.h"
#include "cuda/warp.h"

namespace fastdml::cuda {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;

dim3 blocks(int64_t work, int64_t per_block) {
  return dim3(static_cast<unsigned>((work + per_block - 1) / per_block));
}

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
}

// A sample compared with one class: its similarities `s` with the centres, `step` elements apart.
template <typename T> class Pooled {
public:
  __device__ __forceinline__ Pooled(const ProxyProblem<T> &problem, const T *s, int64_t step)
      : problem_(problem), closest_(s[0]) {
    const DeviceMath<T> math;
    for (int64_t k = 1; k < problem.per_class; ++k)
      if (s[k * step] > closest_) {
        closest_ = s[k * step];
        first_ = k;
      }
    if (problem.sharpness == T(0))
      return;
    T sum = T(0), weighted = T(0);
    for (int64_t k = 0; k < problem.per_class; ++k) {
      const T beyond = s[k * step] - closest_, e = math.exp(beyond * problem.sharpness);
      sum += e;
      weighted = math.fma(e, beyond, weighted);
    }
    sum_ = sum;
    mean_ = weighted / sum;
  }

  __device__ __forceinline__ T similarity() const { return closest_ + mean_; }

  // The derivative of the similarity by that of centre k, which is `s`.
  __device__ __forceinline__ T slope(int64_t k, T s) const {
    if (problem_.sharpness == T(0))
      return k == first_ ? T(1) : T(0);
    const T beyond = s - closest_, share = DeviceMath<T>().exp(beyond * problem_.sharpness) / sum_;
    return share * (1 + (beyond - mean_) * problem_.sharpness);
  }

private:
  const ProxyProblem<T> &problem_;
  T closest_;         // the largest similarity,
  int64_t first_ = 0; // and the first centre that it belongs to
  T sum_ = T(1);      // of exp((s - closest) / gamma)
  T mean_ = T(0);     // of s - closest under the inner softmax
};

// The logarithm of a sum of exponentials, as it grows. NaN stays in the sum.
template <typename T> struct LogSumExp {
  T largest = -std::numeric_limits<T>::infinity(), sum = T(0);

  __device__ __forceinline__ void add(T x) {
    if (x > largest) {
      sum = sum * over(largest, x) + 1;
      largest = x;
    } else {
      sum += over(x, largest);
    }
  }

  __device__ __forceinline__ void merge_over_warp() {
    const T most = warp_max(largest);
    sum = warp_sum(sum * over(largest, most));
    largest = most;
  }

  __device__ __forceinline__ T value() const { return largest + DeviceMath<T>().log(sum); }

private:
  // exp(a - b), of equal infinities too.
  __device__ __forceinline__ static T over(T a, T b) { return a == b ? T(1) : DeviceMath<T>().exp(a - b); }
};

// A warp for each part of the classes of each sample: the runs of 32 classes in turn.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    gather_statistics_kernel(ProxyProblem<T> problem, ProxyBlock<T> block, ProxyState<T> state) {
  const int64_t at = warp_index();
  const int part = static_cast<int>(at % state.parts), row = static_cast<int>(at / state.parts);
  if (row >= block.rows)
    return;
  const int lane = static_cast<int>(threadIdx.x % warp_size);
  const int64_t place = (block.row + row) * state.parts + part;
  const int64_t own = problem.labels[block.row + row] - block.first;
  const T *similarities = block.similarities + row * block.stride;
  LogSumExp<T> others;
  T target = T(0), total = T(0);
  if (block.first > 0 && lane == 0) {
    others.largest = state.largest[place];
    others.sum = state.sum[place];
    target = state.target[place];
    total = state.total[place];
  }
  for (int c = part * warp_size + lane; c < block.classes; c += state.parts * warp_size) {
    const T s = Pooled<T>(problem, similarities + c, block.classes).similarity();
    total += s;
    if (c == own)
      target = s;
    else
      others.add(problem.scale * s);
  }
  others.merge_over_warp();
  target = warp_sum(target);
  total = warp_sum(total);
  if (lane > 0)
    return;
  state.largest[place] = others.largest;
  state.sum[place] = others.sum;
  state.target[place] = target;
  state.total[place] = total;
}

// One sample a warp, one part a lane.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    finish_statistics_kernel(ProxyProblem<T> problem, ProxyState<T> state, const T *rows, int64_t width,
                             const T *poison, T *others, T *target, T *total) {
  const int64_t sample = warp_index();
  if (sample >= problem.samples)
    return;
  const int lane = static_cast<int>(threadIdx.x % warp_size);
  LogSumExp<T> gathered;
  T own = T(0), all = T(0), trace = T(0); // trace: 0 or NaN
  if (lane < state.parts) {
    const int64_t place = sample * state.parts + lane;
    gathered.largest = state.largest[place];
    gathered.sum = state.sum[place];
    own = state.target[place];
    all = state.total[place];
  }
  for (int64_t d = lane; d < width; d += warp_size)
    trace += rows[sample * width + d] * T(0);
  gathered.merge_over_warp();
  own = warp_sum(own);
  all = warp_sum(all);
  trace = warp_sum(trace) + *poison;
  if (lane > 0)
    return;
  others[sample] = gathered.value() + trace;
  target[sample] = own + trace;
  total[sample] = all + trace;
}

// A thread for each class of each sample.
template <typename T>
__global__ void __launch_bounds__(threads, 1)
    weigh_similarities_kernel(ProxyProblem<T> problem, ProxyBlock<T> block, ProxyGradients<T> grads) {
  const int at = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  const int row = at / block.classes, c = at % block.classes;
  if (row >= block.rows)
    return;
  const int64_t sample = block.row + row;
  T *s = block.similarities + row * block.stride + c;
  const Pooled<T> pooled(problem, s, block.classes);
  T grad;
  if (problem.labels[sample] - block.first == c)
    grad = grads.of_target[sample];
  else
    grad = grads.of_others[sample] * problem.scale *
           DeviceMath<T>().exp(problem.scale * pooled.similarity() - grads.others[sample]);
  grad += grads.of_total[sample];
  for (int64_t k = 0; k < problem.per_class; ++k) {
    T &entry = s[k * block.classes];
    entry = grad * pooled.slope(k, entry);
  }
}

} // namespace

template <typename T>
void gather_statistics(const ProxyProblem<T> &problem, const ProxyBlock<T> &block, const ProxyState<T> &state,
                       Stream stream) {
  launch(gather_statistics_kernel<T>, blocks(int64_t(block.rows) * state.parts, warps), threads, stream,
         problem, block, state);
}

template <typename T>
void finish_statistics(const ProxyProblem<T> &problem, const ProxyState<T> &state, const T *rows,
                       int64_t width, const T *poison, T *others, T *target, T *total, Stream stream) {
  launch(finish_statistics_kernel<T>, blocks(problem.samples, warps), threads, stream, problem, state, rows,
         width, poison, others, target, total);
}

template <typename T>
void weigh_similarities(const ProxyProblem<T> &problem, const ProxyBlock<T> &block,
                        const ProxyGradients<T> &grads, Stream stream) {
  launch(weigh_similarities_kernel<T>, blocks(int64_t(block.rows) * block.classes, threads), threads, stream,
         problem, block, grads);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void gather_statistics<T>(const ProxyProblem<T> &, const ProxyBlock<T> &, const ProxyState<T> &,  \
                                     Stream);                                                                \
  template void finish_statistics<T>(const ProxyProblem<T> &, const ProxyState<T> &, const T *, int64_t,     \
                                     const T *, T *, T *, T *, Stream);                                      \
  template void weigh_similarities<T>(const ProxyProblem<T> &, const ProxyBlock<T> &,                        \
                                      const ProxyGradients<T> &, Stream);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
