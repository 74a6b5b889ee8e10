// The proxy statistics on the device: a chunk of classes is packed, a block of similarities made by torch's
// matrix product, and one fused pass goes over it. Beside inputs and gradients there are one such block, one
// such chunk with its gradient, and a few numbers a sample; the host never waits for the device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "cuda/proxy_centres.h"
#include "cuda/proxy_kernels.h"

namespace fastdml::cuda {

// One call: T is what sums are kept in, Input what centres are stored in; at least one sample and one centre.
template <typename T, typename Input> struct ProxyCall {
  torch::stable::Tensor rows; // [B, D], contiguous
  StoredCentres<const Input> centres;
  int64_t classes; // C
  bool normalised;
  ProxyProblem<T> problem;
  Stream stream;
};

// What the forward fills: [B] each, then [C] or null, and [C K].
template <typename T> struct ProxyOutput {
  T *others, *target, *total;
  T *spread;
  T *norms;
};

template <typename T, typename Input>
void proxy_forward(const ProxyCall<T, Input> &call, const ProxyOutput<T> &output);

// Fills the gradients of the rows, [B, D], where that is not empty, and of the centres, where there are any.
// grad_spread: [C] or null; norms: [C K], as the forward found them.
template <typename T, typename Input>
void proxy_backward(const ProxyCall<T, Input> &call, const ProxyGradients<T> &grads, const T *grad_spread,
                    const T *norms, const torch::stable::Tensor &grad_rows,
                    StoredCentres<Input> grad_centres);

} // namespace fastdml::cuda
