// The cpu operator of retrieval: tensors in, ranks out.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <vector>

#include "cpu/rank_engine.h"

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(const Tensor &queries, const std::optional<Tensor> &gallery, const Tensor &spans,
         const Tensor &offsets, const Tensor &slack, const std::optional<Tensor> &query_cameras,
         const std::optional<Tensor> &gallery_cameras, int32_t *ranks) {
  const int64_t count = queries.size(0);
  const Tensor &compared = gallery ? *gallery : queries;
  const int32_t *start = spans.const_data_ptr<int32_t>();
  RankProblem<T> problem{};
  problem.width = queries.size(1);
  problem.queries = count;
  problem.gallery = compared.size(0);
  problem.query_rows = queries.const_data_ptr<T>();
  problem.gallery_rows = compared.const_data_ptr<T>();
  problem.start = start;
  problem.end = start + count;
  problem.own = start + 2 * count;
  problem.query_camera = query_cameras ? query_cameras->const_data_ptr<int64_t>() : nullptr;
  problem.gallery_camera = gallery_cameras ? gallery_cameras->const_data_ptr<int64_t>() : nullptr;
  problem.slack = slack.const_data_ptr<T>();
  problem.offset = offsets.const_data_ptr<int64_t>();
  problem.self = !gallery;
  rank_positives<T>(problem, ranks);
}

// fastdml/retrieval/rank_ops.py holds the schema and says what each argument is; all are contiguous.
Tensor rank_positives_cpu(Tensor queries, std::optional<Tensor> gallery, Tensor spans, Tensor offsets,
                          Tensor slack, std::optional<Tensor> query_cameras,
                          std::optional<Tensor> gallery_cameras) {
  const int64_t total = offsets.const_data_ptr<int64_t>()[queries.size(0)];
  Tensor ranks = torch::stable::empty(std::vector<int64_t>{total}, ScalarType::Int);
  const auto ranked = queries.scalar_type() == ScalarType::Double ? run<double> : run<float>;
  ranked(queries, gallery, spans, offsets, slack, query_cameras, gallery_cameras,
         ranks.mutable_data_ptr<int32_t>());
  return ranks;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) { m.impl("rank_positives_cpu", TORCH_BOX(&rank_positives_cpu)); }

} // namespace fastdml
