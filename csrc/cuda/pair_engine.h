// The pair engine on the device: blocks of similarities by torch's matrix product, sized for the L2 cache,
// and fused passes over each block. Nothing here grows with N x M, and the host never waits for the device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "cuda/pair_kernels.h"

namespace fastdml::cuda {

// One call: the stored rows as tensors, which the matrix products read, and as pointers, which the kernels
// read.
template <typename Input> struct PairCall {
  PairRule rule;
  const std::vector<double> &constants;
  const torch::stable::Tensor &units; // [N + M, D], anchors first
  PairProblem<Input> problem;
  Stream stream;
};

// Losses and rows of every anchor.
template <typename Input>
void pair_forward(const PairCall<Input> &call, PairRows<Accumulator<Input>> rows,
                  LossOutput<Accumulator<Input>> output);

// Gradients of the sorted unit rows, [N, D] and [M, D], added to what is there; an empty tensor is not asked
// for. For self-pairs the anchors' hold both sides of every pair.
template <typename Input>
void pair_backward(const PairCall<Input> &call, PairRows<Accumulator<Input>> rows,
                   const torch::stable::Tensor &grad_anchors, const torch::stable::Tensor &grad_candidates);

} // namespace fastdml::cuda
