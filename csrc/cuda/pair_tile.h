// How a thread block walks its tile of a block of products: each warp takes every eighth row of the tile,
// each lane the same few runs of four columns in all of them, so what a column needs stays in registers.
#pragma once

#include <limits>

#include "cuda/pair_problem.h"
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

// Thread blocks that share a multiprocessor, as far as registers go round without a spill.
template <template <typename> class Terms, typename T> constexpr int resident_tiles = sizeof(T) == 4 ? 2 : 1;

template <typename T> FASTDML_HD constexpr T lowest() { return -std::numeric_limits<T>::infinity(); }

inline int tiles_of(int count, int side) { return (count + side - 1) / side; }

// Thread blocks that cover a block of products.
template <typename T> dim3 tile_grid(const ProductBlock<T> &block) {
  return dim3(tiles_of(block.columns, tile_columns<T>), tiles_of(block.rows, tile_rows));
}

// The lane's column of run v, counted from the tile's first.
__device__ __forceinline__ int column_of(int v) { return v * run_stride + (threadIdx.x % warp_size) * run; }

// One number of each of the lane's columns, `otherwise` beyond the block.
template <typename T>
__device__ __forceinline__ void load_columns(const ProductBlock<T> &block, int first, const T *of_candidate,
                                             T otherwise, T (&out)[runs<T>][run]) {
#pragma unroll
  for (int v = 0; v < runs<T>; ++v)
#pragma unroll
    for (int e = 0; e < run; ++e) {
      const int column = first + column_of(v) + e;
      out[v][e] = column < block.columns ? of_candidate[block.column + column] : otherwise;
    }
}

// What the closeness needs of the lane's columns.
template <typename T> struct LaneLengths {
  T inverse[runs<T>][run]; // of the stored lengths
  unsigned are_short;      // one bit a column
};

template <typename T>
__device__ __forceinline__ LaneLengths<T> load_lengths(const PairProblem<T> &problem,
                                                       const ProductBlock<T> &block, int first) {
  LaneLengths<T> lengths;
  lengths.are_short = 0;
  load_columns(block, first, problem.candidates.norms, T(1), lengths.inverse);
#pragma unroll
  for (int v = 0; v < runs<T>; ++v)
#pragma unroll
    for (int e = 0; e < run; ++e) {
      lengths.are_short |= static_cast<unsigned>(is_short(lengths.inverse[v][e])) << (v * run + e);
      lengths.inverse[v][e] = problem.inverse_length(lengths.inverse[v][e]);
    }
  return lengths;
}

// The lane's closenesses in row i of the block, for the tile that starts at column `first`: -inf, which no
// threshold lets pass, where there is a positive, the anchor itself or nothing.
template <typename T>
__device__ __forceinline__ void load_negatives(const PairProblem<T> &problem, const ProductBlock<T> &block,
                                               int i, int first, const LaneLengths<T> &others,
                                               T (&out)[runs<T>][run]) {
  const int64_t anchor = block.row + i;
  const T *row = block.products + i * block.stride + first;
  const T norm = problem.anchors.norms[anchor], inverse = problem.inverse_length(norm);
  const int columns = block.columns - first;
#pragma unroll
  for (int v = 0; v < runs<T>; ++v) {
    const int column = column_of(v);
    if (column + run <= columns) {
      const auto pack = load<run>(row + column);
#pragma unroll
      for (int e = 0; e < run; ++e)
        out[v][e] = pack.at[e] * (inverse * others.inverse[v][e]);
    } else {
#pragma unroll
      for (int e = 0; e < run; ++e)
        out[v][e] = column + e < columns ? row[column + e] * (inverse * others.inverse[v][e]) : lowest<T>();
    }
  }
  if (problem.closeness != Closeness::inner) {
    const T square = is_short(norm) ? T(0) : T(1);
#pragma unroll
    for (int v = 0; v < runs<T>; ++v)
#pragma unroll
      for (int e = 0; e < run; ++e) {
        const T other = others.are_short >> (v * run + e) & 1u ? T(0) : T(1);
        out[v][e] = closeness_of(problem.closeness, out[v][e], square + other);
      }
  }
  const auto in_tile = [&](int64_t candidate) {
    const int64_t column = candidate - block.column - first;
    return static_cast<int>(column < 0 ? 0 : column > tile_columns<T> ? tile_columns<T> : column);
  };
  const int from = in_tile(problem.anchors.start[anchor]), to = in_tile(problem.anchors.end[anchor]);
  const int64_t own = problem.anchors.own[anchor] - block.column - first;
  const bool holds_own = own >= 0 && own < tile_columns<T>;
  if (from == to && !holds_own && columns >= tile_columns<T>)
    return; // nothing but negatives, and the same for the whole warp
#pragma unroll
  for (int v = 0; v < runs<T>; ++v)
#pragma unroll
    for (int e = 0; e < run; ++e) {
      const int column = column_of(v) + e;
      if (column >= columns || (column >= from && column < to) || column == own)
        out[v][e] = lowest<T>();
    }
}

} // namespace fastdml::cuda
