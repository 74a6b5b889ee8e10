// The positive sweeps: the closeness of an anchor to its own positives, by one warp.
//
// The forward and the backward get it here and nowhere else, so a positive that was mined in one is mined in
// the other. Only the device knows where the positives are, which rules a matrix product out.
#pragma once

#include "cuda/pair_problem.h"
#include "cuda/warp.h"

namespace fastdml::cuda {

constexpr int warps_of_positives = 8; // anchors of a thread block
constexpr int positive_threads = warps_of_positives * warp_size;
constexpr int positives_at_once = 4;

// Elements that a lane reads at once where every row starts at a multiple of 16 bytes.
template <typename Input> constexpr int wide_read = 16 / static_cast<int>(sizeof(Input));

template <typename Input> __device__ __forceinline__ bool reads_wide(const StoredRows<Input> &stored) {
  const auto is_aligned = [](const Input *rows) { return reinterpret_cast<uintptr_t>(rows) % 16 == 0; };
  return stored.width % wide_read<Input> == 0 && is_aligned(stored.anchors) && is_aligned(stored.candidates);
}

// This lane's part of the products of one row with the first `count` of four consecutive others.
template <int length, typename Input>
__device__ __forceinline__ void add_products(const Input *row, const Input *others, int64_t width, int count,
                                             Accumulator<Input> (&out)[positives_at_once]) {
  using T = Accumulator<Input>;
  const DeviceMath<T> math;
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
}

// Calls visit(j, closeness, inverse lengths), in all lanes, for the candidates j of [begin, end) but the one
// that the anchor i is itself.
template <typename Input, typename Visit>
__device__ __forceinline__ void for_each_positive(const PairProblem<Accumulator<Input>> &problem,
                                                  const StoredRows<Input> &stored, int64_t i, int64_t begin,
                                                  int64_t end, const Visit &visit) {
  using T = Accumulator<Input>;
  const Input *row = stored.anchors + i * stored.width;
  const T norm = problem.anchors.norms[i];
  const int64_t own = problem.anchors.own[i];
  const bool wide = reads_wide(stored);
  for (int64_t j = begin; j < end; j += positives_at_once) {
    const int count = static_cast<int>(end - j < positives_at_once ? end - j : positives_at_once);
    const Input *others = stored.candidates + j * stored.width;
    T products[positives_at_once] = {};
    if (wide)
      add_products<wide_read<Input>>(row, others, stored.width, count, products);
    else
      add_products<1>(row, others, stored.width, count, products);
#pragma unroll
    for (int k = 0; k < positives_at_once; ++k)
      products[k] = warp_sum(products[k]);
#pragma unroll
    for (int k = 0; k < positives_at_once; ++k) {
      if (k >= count || j + k == own)
        continue;
      const T other = problem.candidates.norms[j + k];
      // Multiplied in an order that makes (i, j) and (j, i) the same.
      const T inverses = problem.inverse_length(norm) * problem.inverse_length(other);
      const T squares = (is_short(norm) ? T(0) : T(1)) + (is_short(other) ? T(0) : T(1));
      visit(j + k, closeness_of(problem.closeness, products[k] * inverses, squares), inverses);
    }
  }
}

// Thread blocks of a sweep in which each warp owns one of `rows` anchors.
inline dim3 positive_grid(int64_t rows) {
  return dim3(static_cast<unsigned>((rows + warps_of_positives - 1) / warps_of_positives));
}

// The anchor of this warp.
__device__ __forceinline__ int64_t anchor_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * warps_of_positives + threadIdx.x / warp_size;
}

} // namespace fastdml::cuda
