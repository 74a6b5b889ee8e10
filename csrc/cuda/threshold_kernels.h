// The passes over a block of products that make the threshold statistics. All pointers are device memory.
#pragma once

#include <cstdint>

#include "cuda/closeness.h"
#include "cuda/stream.h"

namespace fastdml::cuda {

template <typename T> struct ThresholdSide {
  int64_t count;
  const T *squares;      // [count], squared lengths of the rows
  const int64_t *labels; // [count]
};

template <typename T> struct ThresholdProblem {
  Closeness closeness;
  ThresholdSide<T> anchors, candidates; // the same side for self-pairs
  const int64_t *own;     // [anchors], the candidate that each anchor itself is, -1: none; or null
  const T *thresholds;    // of one anchor after the other, in any order within an anchor
  const int64_t *offsets; // [anchors + 1], where those of each anchor start
};

// Products of `rows` anchors from `row` with all candidates.
template <typename T> struct ThresholdBlock {
  T *products;    // [rows, candidates]
  int64_t stride; // elements from row to row
  int64_t row, rows;
};

// Of every threshold of the block's anchors, how many negatives lie beyond it and the sum of what they exceed
// it by.
template <typename T>
void gather_beyond(const ThresholdProblem<T> &problem, const ThresholdBlock<T> &block, double *counts,
                   double *sums, Stream stream);

// Makes the products the gradients by them, from those of the sums of all thresholds.
template <typename T>
void weigh_products(const ThresholdProblem<T> &problem, const ThresholdBlock<T> &block,
                    const double *grad_sums, Stream stream);

// grads[i] -= lengths[i] * rows[i], both [count, width].
template <typename T>
void shorten(T *grads, const T *rows, const T *lengths, int64_t count, int64_t width, Stream stream);

} // namespace fastdml::cuda
