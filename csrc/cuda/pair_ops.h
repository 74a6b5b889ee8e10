// The operators of the pair engine; fastdml/engines/pair_ops.py holds their schemas and says what the tensors
// are.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace fastdml::cuda {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
pair_forward_op(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                std::optional<Tensor> ref_labels, std::string rule, std::vector<double> constants, bool keep);

std::tuple<Tensor, Tensor> pair_backward_op(Tensor grad_losses, Tensor units, Tensor norms, Tensor order,
                                            Tensor spans, Tensor rows, Tensor tiles, std::string rule,
                                            std::vector<double> constants, bool need_anchors,
                                            bool need_candidates);

} // namespace fastdml::cuda
