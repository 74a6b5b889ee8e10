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
                std::optional<Tensor> ref_labels, std::optional<Tensor> own, std::optional<Tensor> row,
                std::string terms, std::vector<double> constants, std::vector<double> selection,
                int64_t closeness, bool keep);

std::tuple<Tensor, Tensor> pair_backward_op(Tensor grad_statistics, Tensor units, Tensor norms, Tensor order,
                                            Tensor spans, Tensor rows, Tensor tiles, std::string terms,
                                            std::vector<double> constants, std::vector<double> selection,
                                            int64_t closeness, bool need_anchors, bool need_candidates);

} // namespace fastdml::cuda
