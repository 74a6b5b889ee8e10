// The passes over a block of products that compare rows with points. All pointers are device memory.
#pragma once

#include <cstdint>

#include "cuda/stream.h"

namespace fastdml::cuda {

// Inner products of `rows` rows from `row` with `columns` points from `column`.
template <typename T> struct CentroidBlock {
  T *products;    // [rows, columns]
  int64_t stride; // elements from row to row
  int64_t row, column;
  int rows, columns; // rows times columns fits an int too
};

// The squared lengths [count] of rows [count, width]; NaN where a row is not finite.
template <typename T>
void square_lengths(const T *rows, int64_t count, int64_t width, T *squares, Stream stream);

template <typename T> struct NeighbourProblem {
  const T *point_squares;               // [P], as square_lengths makes them
  const int64_t *labels, *point_labels; // [B], [P]
  int64_t k;
};

// Adds a block to the k nearest points of another label of its rows; the block of the first point begins
// them. `found` [B, k] holds the points, the nearest first, -1 where there are fewer; `keys` [rows, k] what
// they are sorted by, from one block of points to the next.
template <typename T>
void gather_nearest(const NeighbourProblem<T> &problem, const CentroidBlock<T> &block, T *keys,
                    int64_t *found, Stream stream);

template <typename T> struct HingeProblem {
  const T *squares, *point_squares; // [B], [P], as square_lengths makes them
  const int64_t *own;               // [B], the point that a row leaves out; -1: none
  const T *limits;                  // [B]
};

// Adds a block to the sums [B] of what points are nearer than a row's limit and to how many are [B]; the
// block of the first point begins them.
template <typename T>
void gather_hinges(const HingeProblem<T> &problem, const CentroidBlock<T> &block, T *sums, T *counts,
                   Stream stream);

// Makes the products the gradients by them, from those of the sums [B].
template <typename T>
void weigh_hinges(const HingeProblem<T> &problem, const CentroidBlock<T> &block, const T *grad,
                  Stream stream);

} // namespace fastdml::cuda
