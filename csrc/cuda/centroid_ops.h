// The operators of the centroid engine; fastdml/engines/centroid_ops.py holds their schemas and says what the
// tensors are. Products are made in the dtype of the rows, whatever `product` allows.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <tuple>

namespace fastdml::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor nearest_others_op(Tensor rows, Tensor points, Tensor labels, Tensor point_labels, int64_t k,
                         ScalarType product);

std::tuple<Tensor, Tensor> hinge_sums_op(Tensor rows, Tensor points, Tensor own, Tensor limits,
                                         ScalarType product);

std::tuple<Tensor, Tensor> hinge_gradients_op(Tensor grad, Tensor rows, Tensor points, Tensor own,
                                              Tensor limits, ScalarType product, bool need_rows,
                                              bool need_points);

Tensor listed_distances_op(Tensor rows, Tensor points, Tensor listed);

std::tuple<Tensor, Tensor> listed_gradients_op(Tensor grad, Tensor rows, Tensor points, Tensor listed,
                                               Tensor distances, bool need_rows, bool need_points);

Tensor class_sums_op(Tensor rows, Tensor labels, int64_t classes, ScalarType dtype);

} // namespace fastdml::cuda
