// The positive sweeps: the similarities of an anchor with its own positives, by one warp.
//
// The forward and the backward get them here and nowhere else, so a positive that was mined in one is mined
// in the other. Only the device knows where the positives are, which rules a matrix product out.
#pragma once

#include "cuda/device_math.h"
#include "cuda/pair_kernels.h"
#include "cuda/row_length.h"
#include "cuda/warp.h"

namespace fastdml::cuda {

constexpr int warps_of_positives = 8; // anchors of a thread block
constexpr int positives_at_once = 4;

// Dot products of one unit row with the first `count` of four consecutive others, known to every lane.
template <int length, typename Input>
__device__ __forceinline__ void dot_products(const Input *row, const Input *others, int64_t width, int count,
                                             Accumulator<Input> (&out)[positives_at_once]) {
  using T = Accumulator<Input>;
  const DeviceMath<T> math;
#pragma unroll
  for (int k = 0; k < positives_at_once; ++k)
    out[k] = T(0);
  for (int64_t d = static_cast<int64_t>(threadIdx.x % warp_size) * length; d < width;
       d += warp_size * length) {
    const auto a = load<length>(row + d);
#pragma unroll
    for (int k = 0; k < positives_at_once; ++k) {
      if (k >= count)
        continue;
      const auto b = load<length>(others + k * width + d);
#pragma unroll
      for (int e = 0; e < length; ++e)
        out[k] = math.fma(static_cast<T>(a.at[e]), static_cast<T>(b.at[e]), out[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < positives_at_once; ++k)
    out[k] = warp_sum(out[k]);
}

// Calls visit(j, similarity, inverse lengths), in all lanes, for the candidates j of [begin, end) but the
// anchor i itself.
template <int length, typename Input, typename Visit>
__device__ __forceinline__ void for_each_positive(const PairProblem<Input> &problem, int64_t i, int64_t begin,
                                                  int64_t end, const Visit &visit) {
  using T = Accumulator<Input>;
  const Input *row = problem.anchors.units + i * problem.width;
  const T own = inverse_length<Input>(problem.anchors.norms[i]);
  for (int64_t j = begin; j < end; j += positives_at_once) {
    const int count = static_cast<int>(end - j < positives_at_once ? end - j : positives_at_once);
    T similarity[positives_at_once];
    dot_products<length>(row, problem.candidates.units + j * problem.width, problem.width, count, similarity);
#pragma unroll
    for (int k = 0; k < positives_at_once; ++k)
      if (k < count && !(problem.self && j + k == i)) {
        // Multiplied in an order that makes (i, j) and (j, i) the same.
        const T inverses = own * inverse_length<Input>(problem.candidates.norms[j + k]);
        visit(j + k, keeps_length<Input> ? similarity[k] * inverses : similarity[k], inverses);
      }
  }
}

// Elements that a lane reads at once: 16 bytes where every row starts at a multiple of that, else one
// element.
template <typename Input> constexpr int wide_read = 16 / static_cast<int>(sizeof(Input));

template <typename Input> bool reads_wide(const PairProblem<Input> &problem) {
  const auto is_aligned = [](const Input *units) { return reinterpret_cast<uintptr_t>(units) % 16 == 0; };
  return problem.width % wide_read<Input> == 0 && is_aligned(problem.anchors.units) &&
         is_aligned(problem.candidates.units);
}

// Blocks of a sweep in which each warp owns one of `rows` anchors.
inline unsigned blocks_of_positives(int64_t rows) {
  return static_cast<unsigned>((rows + warps_of_positives - 1) / warps_of_positives);
}

// The anchor of this warp.
__device__ __forceinline__ int64_t anchor_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * warps_of_positives + threadIdx.x / warp_size;
}

} // namespace fastdml::cuda
