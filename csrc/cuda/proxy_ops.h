// The operators of the proxy engine; fastdml/engines/proxy_ops.py holds their schemas and says what the
// tensors are. Products are made in the dtype of the rows, whatever `product` allows.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

namespace fastdml::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>
proxy_forward_op(Tensor rows, Tensor centres, Tensor labels, std::optional<Tensor> shares, int64_t per_class,
                 bool columns, bool normalised, double scale, double gamma, ScalarType product, bool spread);

std::tuple<Tensor, Tensor> proxy_backward_op(Tensor grad_others, Tensor grad_target, Tensor grad_total,
                                             Tensor grad_spread, Tensor rows, Tensor centres, Tensor labels,
                                             std::optional<Tensor> shares, Tensor others, Tensor norms,
                                             int64_t per_class, bool columns, bool normalised, double scale,
                                             double gamma, ScalarType product, bool need_rows,
                                             bool need_centres);

} // namespace fastdml::cuda
