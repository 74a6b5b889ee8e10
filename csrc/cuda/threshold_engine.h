// The threshold statistics on the device: a block of products by torch's matrix product, sized for the L2
// cache, and one fused pass over it. Nothing here grows with N x M, and the host never waits for the device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "cuda/threshold_kernels.h"

namespace fastdml::cuda {

// One call: rows as they are compared, of at least one anchor and one candidate, and what is known of them.
template <typename T> struct ThresholdCall {
  torch::stable::Tensor anchors, candidates; // [N, D] and [M, D], contiguous; the same for self-pairs
  ThresholdProblem<T> problem;
  bool self;
  bool lengths_move; // whether distances also fall with the lengths of the rows
  Stream stream;
};

template <typename T> void threshold_forward(const ThresholdCall<T> &call, double *counts, double *sums);

// Gradients of the rows, [N, D] and [M, D], added to what is there; an empty tensor is not asked for. For
// self-pairs the anchors' hold both sides of every pair.
template <typename T>
void threshold_backward(const ThresholdCall<T> &call, const double *grad_sums,
                        const torch::stable::Tensor &grad_anchors,
                        const torch::stable::Tensor &grad_candidates);

} // namespace fastdml::cuda
