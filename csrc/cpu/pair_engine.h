// The pair engine on the CPU: blocks of similarities by torch's matrix product, and one fused pass over each
// block while it is in cache. Nothing here grows with N x M.
#pragma once

#include <cstdint>

#include "cpu/pair_kernels.h"

namespace fastdml {

// Unit rows sorted by label, and the sorted range of each row's positives on the other side.
template <typename T> struct PairSide {
  int64_t count;
  const T *units;             // [count, width]
  const int32_t *start, *end; // [count]
};

template <typename T> struct PairProblem {
  const PairKernels<T> *kernels;
  const double *constants;
  int64_t width;
  PairSide<T> anchors;
  PairSide<T> candidates; // the anchors themselves for self-pairs
  bool self;
};

// Per-anchor numbers, each [anchors.count], in sorted order.
template <typename T> struct PairRows {
  T *negative_threshold, *positive_threshold, *negative_scale, *positive_scale;
};

// Side of the blocks, and how many similarities the forward leaves for the backward: all of them where they
// fit a fixed budget, none elsewhere. fastdml/engines/pair_ops.py holds the same rule.
int64_t block_side(int64_t count);
int64_t kept_elements(int64_t anchors, int64_t candidates, bool self);

// Losses and rows of every anchor. `tiles` takes the kept similarities (null: none are kept).
template <typename T> void pair_forward(const PairProblem<T> &problem, T *losses, PairRows<T> rows, T *tiles);

// Gradients with respect to the unit rows, added to zeroed buffers; null for a side that needs none. The
// scales in `rows` hold the upstream gradient. For self-pairs grad_anchors takes both terms, and
// grad_candidates is null.
template <typename T>
void pair_backward(const PairProblem<T> &problem, PairRow<T> rows, const T *tiles, T *grad_anchors,
                   T *grad_candidates);

} // namespace fastdml
