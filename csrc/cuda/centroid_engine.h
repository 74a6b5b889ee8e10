// Rows against points by Euclidean distance on the device: a block of products by torch's matrix product,
// sized for the L2 cache, and one fused pass over it. Nothing here grows with B x P, and the host never waits
// for the device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "cuda/stream.h"

namespace fastdml::cuda {

// What is compared, contiguous and not empty.
struct CentroidCall {
  torch::stable::Tensor rows, points; // [B, D], [P, D]
  Stream stream;
};

// found [B, k]: the nearest points of other labels than the rows' (`labels` [B], `point_labels` [P]).
template <typename T>
void nearest_others(const CentroidCall &call, const int64_t *labels, const int64_t *point_labels,
                    const torch::stable::Tensor &found);

// The points that rows leave out and the limits that others are compared with, both [B].
template <typename T> struct Hinges {
  const int64_t *own;
  const T *limits;
};

// sums, counts: [B].
template <typename T> void hinge_sums(const CentroidCall &call, const Hinges<T> &hinges, T *sums, T *counts);

// From the gradients [B] of the sums those of rows and of points; an empty tensor is not asked for.
template <typename T>
void hinge_gradients(const CentroidCall &call, const Hinges<T> &hinges, const T *grad,
                     const torch::stable::Tensor &grad_rows, const torch::stable::Tensor &grad_points);

} // namespace fastdml::cuda
