// The operators of the threshold statistics; fastdml/engines/threshold_ops.py holds their schemas and says
// what the tensors are.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace fastdml::cuda {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor> threshold_forward_op(Tensor rows, Tensor squares, Tensor labels,
                                                std::optional<Tensor> refs, std::optional<Tensor> ref_squares,
                                                std::optional<Tensor> ref_labels, std::optional<Tensor> own,
                                                Tensor thresholds, Tensor offsets, int64_t closeness);

std::tuple<Tensor, Tensor> threshold_backward_op(Tensor grad_sums, Tensor rows, Tensor squares, Tensor labels,
                                                 std::optional<Tensor> refs,
                                                 std::optional<Tensor> ref_squares,
                                                 std::optional<Tensor> ref_labels, std::optional<Tensor> own,
                                                 Tensor thresholds, Tensor offsets, int64_t closeness,
                                                 bool need_rows, bool need_refs);

} // namespace fastdml::cuda
