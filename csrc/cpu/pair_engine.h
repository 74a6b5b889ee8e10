// The pair engine on the CPU: blocks of similarities by torch's matrix product, and one fused pass over each
// block while it is in cache. Nothing here grows with N x M.
#pragma once

#include <cstdint>

#include "cpu/pair_kernels.h"

namespace fastdml {

// Which pairs count; fastdml/rules/selection.py holds the meaning of each.
struct Selection {
  bool relative;
  double negative, positive, duplicate;

  // Whether any pair can be dropped.
  bool selects() const;
};

// Rows sorted by label, and where each row finds its pairs on the other side.
template <typename T> struct PairSide {
  int64_t count;
  const T *rows;              // [count, width], as they are compared
  const T *squares;           // [count], their squared lengths; null where nothing reads them
  const int32_t *start, *end; // [count], range of the row's positives on the other side
  const int32_t *own; // [count], the row on the other side that is the same, -1 for none; of anchors only
};

template <typename T> struct PairProblem {
  const PairKernels<T> *kernels;
  const double *constants; // of the terms
  Selection selection;
  Closeness closeness;
  int64_t width;
  PairSide<T> anchors;
  PairSide<T> candidates; // the anchors themselves for self-pairs
  bool self;
};

// Per-anchor numbers, each [anchors.count], in sorted order: what the forward finds,
template <typename T> struct PairStatistics {
  T *negative_sum, *negative_second, *positive_sum, *positive_second;
  T *most_negative, *least_positive, *positives, *negatives;
};

// and what it leaves for the backward, of which the row of the negatives is given.
template <typename T> struct PairRows {
  T *negative_threshold, *positive_threshold;
  const T *negative_row;
  T *positive_row;
};

// Side of the blocks, and how much closeness the forward leaves for the backward: all of them where they
// fit a fixed budget, none elsewhere. fastdml/engines/pair_ops.py holds the same rule.
int64_t block_side(int64_t count);
int64_t kept_elements(int64_t anchors, int64_t candidates, bool self);

// Statistics and rows of every anchor. `tiles` takes the kept closeness (null: none is kept).
template <typename T>
void pair_forward(const PairProblem<T> &problem, PairStatistics<T> statistics, PairRows<T> rows, T *tiles);

// Gradients with respect to the compared rows, added to zeroed buffers; null for a side that needs none. For
// self-pairs grad_anchors takes both terms, and grad_candidates is null.
template <typename T>
void pair_backward(const PairProblem<T> &problem, PairRow<T> rows, const T *tiles, T *grad_anchors,
                   T *grad_candidates);

} // namespace fastdml
