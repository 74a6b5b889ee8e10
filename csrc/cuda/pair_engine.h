// The pair engine on the device: blocks of products by torch's matrix product, sized for the L2 cache, and
// fused passes over each block. Nothing here grows with N x M, and the host never waits for the device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "cuda/pair_kernels.h"

namespace fastdml::cuda {

// One call: the stored rows as a tensor, which the matrix products read, and as pointers, which the kernels
// read.
template <typename Input> struct PairCall {
  PairKernels<Input> kernels;
  const std::vector<double> &constants;
  const torch::stable::Tensor &rows; // [N + M, D], anchors first
  StoredRows<Input> stored;
  PairProblem<Accumulator<Input>> problem;
  Stream stream;
};

// Statistics and rows of every anchor. `row` is one number of each anchor in input order, or null.
template <typename Input>
void pair_forward(const PairCall<Input> &call, const Accumulator<Input> *row,
                  PairRows<Accumulator<Input>> rows, StatisticsOutput<Accumulator<Input>> output);

// Gradients of the sorted rows as compared, [N, D] and [M, D], added to what is there; an empty tensor is not
// asked for. For self-pairs the anchors' hold both sides of every pair.
template <typename Input>
void pair_backward(const PairCall<Input> &call, PairRows<Accumulator<Input>> rows,
                   SumGradients<Accumulator<Input>> grads, const torch::stable::Tensor &grad_anchors,
                   const torch::stable::Tensor &grad_candidates);

} // namespace fastdml::cuda
