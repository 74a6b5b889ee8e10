// The threshold statistics on the CPU: blocks of closeness by torch's matrix product, and one pass over each
// block while it is in cache. Nothing here grows with N x M.
#pragma once

#include <cstdint>

namespace fastdml {

// Rows as they are compared, sorted by label, and the range of each row's positives on the other side.
template <typename T> struct ThresholdSide {
  int64_t count;
  const T *rows, *squares;    // [count, width], [count]
  const int32_t *start, *end; // [count]
};

template <typename T> struct ThresholdProblem {
  int64_t width;
  int64_t closeness; // its code, less that of normalisation
  bool lengths_move; // whether distances fall with the rows' lengths
  bool self;         // the candidates are the anchors
  ThresholdSide<T> anchors, candidates;
  const int32_t *own;    // [anchors], the candidate that each anchor itself is, or -1; null for self-pairs
  const int64_t *offset; // [anchors + 1], where the thresholds of each anchor start,
  const T *thresholds;   // which are ascending
};

// Of every threshold, how many negatives of its anchor lie beyond it and the sum of what they exceed it by.
template <typename T>
void threshold_forward(const ThresholdProblem<T> &problem, double *counts, double *sums);

// Gradients with respect to the rows, from those of the sums, added to zeroed buffers; null for a side that
// needs none. For self-pairs grad_anchors takes both terms, and grad_candidates is null.
template <typename T>
void threshold_backward(const ThresholdProblem<T> &problem, const double *grad_sums, T *grad_anchors,
                        T *grad_candidates);

} // namespace fastdml
