// How a thread block walks its tile of a block of similarities: each warp takes every eighth row of the tile,
// each lane the same few runs of four columns in all of them, so what a column needs stays in registers.
#pragma once

#include <limits>

#include "cuda/pair_kernels.h"
#include "cuda/row_length.h"
#include "cuda/warp.h"

namespace fastdml::cuda {

constexpr int tile_warps = 8;
constexpr int tile_threads = tile_warps * warp_size;
constexpr int tile_rows = 64;
constexpr int run = 4; // columns that a lane reads at once
constexpr int run_stride = run * warp_size;

// Runs of a lane: 16 columns in fp32, 8 in fp64, where registers are dearer.
template <typename T> constexpr int runs = sizeof(T) == 4 ? 4 : 2;
template <typename T> constexpr int tile_columns = runs<T> * run_stride;

template <typename T> FASTDML_HD constexpr T lowest() { return -std::numeric_limits<T>::infinity(); }

// The lane's column of run v, counted from the tile's first.
__device__ __forceinline__ int column_of(int v) { return v * run_stride + (threadIdx.x % warp_size) * run; }

// One number of each of the lane's columns, `otherwise` beyond the block.
template <typename T>
__device__ __forceinline__ void load_columns(const SimilarityBlock<T> &block, int first, const T *of_anchor,
                                             T otherwise, T (&out)[runs<T>][run]) {
#pragma unroll
  for (int v = 0; v < runs<T>; ++v)
#pragma unroll
    for (int e = 0; e < run; ++e) {
      const int column = first + column_of(v) + e;
      out[v][e] = column < block.columns ? of_anchor[block.column + column] : otherwise;
    }
}

// One over the stored lengths of the lane's columns.
template <typename Input, typename T = Accumulator<Input>>
__device__ __forceinline__ void load_inverses(const PairProblem<Input> &problem,
                                              const SimilarityBlock<T> &block, int first,
                                              T (&out)[runs<T>][run]) {
  load_columns(block, first, problem.candidates.norms, T(1), out);
#pragma unroll
  for (int v = 0; v < runs<T>; ++v)
#pragma unroll
    for (int e = 0; e < run; ++e)
      out[v][e] = inverse_length<Input>(out[v][e]);
}

// The lane's similarities in row i of the block, for the tile that starts at column `first`: -inf, which no
// threshold lets pass, where there is a positive, the anchor itself or nothing. `own` and `others` are
// inverse lengths.
template <typename Input, typename T = Accumulator<Input>>
__device__ __forceinline__ void load_negatives(const PairProblem<Input> &problem,
                                               const SimilarityBlock<T> &block, int i, int first, T own,
                                               const T (&others)[runs<T>][run], T (&out)[runs<T>][run]) {
  const T *row = block.similarity + i * block.stride + first;
  const auto clip = [&](int64_t candidate) {
    const int64_t column = candidate - block.column - first;
    return static_cast<int>(column < 0 ? 0 : column > tile_columns<T> ? tile_columns<T> : column);
  };
  const int from = clip(problem.anchors.start[block.row + i]), to = clip(problem.anchors.end[block.row + i]);
  const int columns = block.columns - first;
#pragma unroll
  for (int v = 0; v < runs<T>; ++v) {
    const int column = column_of(v);
    if (column < columns) {
      const auto pack = load<run>(row + column);
#pragma unroll
      for (int e = 0; e < run; ++e)
        out[v][e] = keeps_length<Input> ? pack.at[e] * (own * others[v][e]) : pack.at[e];
    } else {
#pragma unroll
      for (int e = 0; e < run; ++e)
        out[v][e] = lowest<T>();
    }
  }
  if (from == to && columns >= tile_columns<T>)
    return; // nothing but negatives, and the same for the whole warp
#pragma unroll
  for (int v = 0; v < runs<T>; ++v)
#pragma unroll
    for (int e = 0; e < run; ++e) {
      const int column = column_of(v) + e;
      if (column >= columns || (column >= from && column < to))
        out[v][e] = lowest<T>();
    }
}

inline int tiles_of(int count, int side) { return (count + side - 1) / side; }

} // namespace fastdml::cuda
