// The cpu operators of the pair engine: tensors in, tensors out.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/pair_engine.h"
#include "cpu/pair_layout.h"
#include "cpu/pair_rows.h"

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Numbers = std::vector<double>;

// The loss as the operators are told it; fastdml/engines/pair_ops.py documents the arguments.
struct Rule {
  std::string terms;
  Numbers constants;
  Selection selection;
  Closeness closeness;
  bool normalises;

  Rule(std::string terms, Numbers constants, const Numbers &selection, int64_t code)
      : terms(std::move(terms)), constants(std::move(constants)),
        selection{selection.at(0) != 0, selection.at(1), selection.at(2), selection.at(3)},
        closeness(static_cast<Closeness>(code % 4)), normalises(code < 4) {
    STD_TORCH_CHECK(code >= 0 && (code <= 2 || code == 4),
                    "the cpu backend has closeness 0, 1, 2 and 4, got ", code);
  }

  template <typename T> const PairKernels<T> *kernels() const {
    const PairKernels<T> *found = pair_kernels_for_this_cpu<T>(terms.c_str(), selection.selects());
    STD_TORCH_CHECK(found != nullptr, "the cpu backend has no terms named ", terms);
    return found;
  }
};

Tensor empty(std::vector<int64_t> shape, ScalarType dtype) { return torch::stable::empty(shape, dtype); }

// Squared lengths of unit rows: 1, or 0 of rows too short to be normalised. Inner products read none.
template <typename T> std::vector<T> squared_lengths(const Rule &rule, const T *norms, int64_t count) {
  std::vector<T> squares;
  if (rule.closeness != Closeness::inner)
    for (int64_t k = 0; k < count; ++k)
      squares.push_back(norms[k] < static_cast<T>(smallest_norm) ? T(0) : T(1));
  return squares;
}

// Adds 0 for every finite norm, NaN otherwise: comparisons with NaN are false, so a NaN row would else be
// silently left out.
template <typename T> T poison_of(const T *norms, int64_t count) {
  T poison = 0;
  for (int64_t k = 0; k < count; ++k)
    poison += norms[k] * T(0);
  return poison;
}

// What every anchor's sums and gradients are poisoned by: its own norm and those of all candidates.
template <typename T> std::vector<T> poison_of_anchors(const T *norms, int64_t anchors, int64_t candidates) {
  const T shared = candidates == 0 ? poison_of(norms, anchors) : poison_of(norms + anchors, candidates);
  std::vector<T> poison(anchors);
  for (int64_t k = 0; k < anchors; ++k)
    poison[k] = shared + norms[k] * T(0);
  return poison;
}

// The candidates' rows follow the anchors'; none of them means self-pairs.
template <typename T>
PairProblem<T> problem_of(const Rule &rule, int64_t width, const PairSide<T> &anchors, int64_t candidates) {
  const int64_t first = anchors.count;
  const bool self = candidates == 0;
  const PairSide<T> after{candidates,
                          anchors.rows + first * width,
                          anchors.squares ? anchors.squares + first : nullptr,
                          anchors.start + first,
                          anchors.end + first,
                          nullptr};
  return {rule.kernels<T>(),
          rule.constants.data(),
          rule.selection,
          rule.closeness,
          width,
          anchors,
          self ? anchors : after,
          self};
}

// For every sorted anchor, the sorted candidate that it is itself.
void sort_own(const std::optional<Tensor> &own, const int64_t *order, int64_t anchors, int64_t candidates,
              int32_t *sorted_own) {
  std::fill_n(sorted_own, anchors + candidates, -1);
  if (candidates == 0) {
    std::iota(sorted_own, sorted_own + anchors, 0);
  } else if (own.has_value()) {
    const Tensor given = torch::stable::contiguous(*own);
    const int64_t *candidate = given.const_data_ptr<int64_t>();
    std::vector<int32_t> place(candidates);
    for (int64_t k = 0; k < candidates; ++k)
      place[order[anchors + k]] = static_cast<int32_t>(k);
    for (int64_t k = 0; k < anchors; ++k)
      if (const int64_t at = candidate[order[k]]; at >= 0 && at < candidates)
        sorted_own[k] = place[at];
  }
}

template <typename T>
ForwardResult forward(const Tensor &embeddings, const Tensor &labels,
                      const std::optional<Tensor> &ref_embeddings, const std::optional<Tensor> &ref_labels,
                      const std::optional<Tensor> &own, const std::optional<Tensor> &row, const Rule &rule,
                      bool keep) {
  const ScalarType dtype = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const bool self = !ref_embeddings.has_value();
  const int64_t anchors = embeddings.size(0), width = embeddings.size(1);
  const int64_t candidates = self ? 0 : ref_embeddings->size(0), total = anchors + candidates;
  Tensor statistics = empty({8, anchors}, dtype), units = empty({total, width}, dtype);
  Tensor norms = empty({total}, dtype), rows = empty({4, anchors}, dtype);
  Tensor order = empty({total}, ScalarType::Long), spans = empty({3, total}, ScalarType::Int);
  Tensor tiles = empty({keep ? kept_elements(anchors, self ? anchors : candidates, self) : 0}, dtype);

  T *unit = units.mutable_data_ptr<T>(), *norm = norms.mutable_data_ptr<T>();
  int64_t *sorted = order.mutable_data_ptr<int64_t>();
  int32_t *start = spans.mutable_data_ptr<int32_t>(), *end = start + total, *sorted_own = end + total;
  const Tensor label_rows = torch::stable::contiguous(labels);
  const Tensor ref_label_rows = self ? label_rows : torch::stable::contiguous(*ref_labels);
  const int64_t *label = label_rows.const_data_ptr<int64_t>(),
                *ref_label = ref_label_rows.const_data_ptr<int64_t>();
  sort_by_label(label, anchors, sorted);
  gather_rows<T>(embeddings, sorted, rule.normalises, unit, norm);
  if (self) {
    positive_spans(label, sorted, anchors, label, sorted, anchors, start, end);
  } else {
    int64_t *ref_sorted = sorted + anchors;
    sort_by_label(ref_label, candidates, ref_sorted);
    gather_rows<T>(*ref_embeddings, ref_sorted, rule.normalises, unit + anchors * width, norm + anchors);
    positive_spans(label, sorted, anchors, ref_label, ref_sorted, candidates, start, end);
    positive_spans(ref_label, ref_sorted, candidates, label, sorted, anchors, start + anchors, end + anchors);
  }
  sort_own(own, sorted, anchors, candidates, sorted_own);

  const auto of_rows = [&](int64_t k) { return rows.mutable_data_ptr<T>() + k * anchors; };
  T *sorted_row = of_rows(2);
  std::fill_n(sorted_row, anchors, T(0));
  if (row.has_value()) {
    const Tensor given = torch::stable::contiguous(*row);
    for (int64_t k = 0; k < anchors; ++k)
      sorted_row[k] = given.const_data_ptr<T>()[sorted[k]];
  }

  const std::vector<T> squares = squared_lengths<T>(rule, norm, total);
  const PairProblem<T> problem =
      problem_of<T>(rule, width, {anchors, unit, squares.data(), start, end, sorted_own}, candidates);
  std::vector<T> found(8 * anchors);
  const auto of_found = [&](int64_t k) { return found.data() + k * anchors; };
  pair_forward<T>(problem,
                  {of_found(0), of_found(1), of_found(2), of_found(3), of_found(4), of_found(5), of_found(6),
                   of_found(7)},
                  {of_rows(0), of_rows(1), sorted_row, of_rows(3)},
                  tiles.numel() ? tiles.mutable_data_ptr<T>() : nullptr);

  const std::vector<T> poison = poison_of_anchors(norm, anchors, candidates);
  for (int64_t k = 0; k < anchors; ++k) {
    of_found(0)[k] += poison[k];
    of_found(2)[k] += poison[k];
  }
  for (int64_t s = 0; s < 8; ++s) {
    T *statistic = statistics.mutable_data_ptr<T>() + s * anchors;
    for (int64_t k = 0; k < anchors; ++k)
      statistic[sorted[k]] = of_found(s)[k];
  }
  return {statistics, units, norms, order, spans, rows, tiles};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(const Tensor &grad_statistics, const Tensor &units, const Tensor &norms,
                                    const Tensor &order, const Tensor &spans, const Tensor &rows,
                                    const Tensor &tiles, const Rule &rule, bool need_anchors,
                                    bool need_candidates) {
  const ScalarType dtype = units.scalar_type();
  const int64_t anchors = rows.size(1), total = units.size(0), candidates = total - anchors,
                width = units.size(1);
  const bool self = candidates == 0;
  const T *unit = units.const_data_ptr<T>(), *norm = norms.const_data_ptr<T>(),
          *row = rows.const_data_ptr<T>();
  const int64_t *sorted = order.const_data_ptr<int64_t>();
  const int32_t *start = spans.const_data_ptr<int32_t>(), *end = start + total, *own = end + total;

  const std::vector<T> poison = poison_of_anchors(norm, anchors, candidates);
  const Tensor given_grads = torch::stable::contiguous(grad_statistics);
  std::vector<T> sorted_grads(3 * anchors);
  for (int64_t s = 0; s < 3; ++s) {
    const T *grad = given_grads.const_data_ptr<T>() + s * anchors;
    for (int64_t k = 0; k < anchors; ++k)
      sorted_grads[s * anchors + k] = grad[sorted[k]];
  }
  const std::vector<T> squares = squared_lengths<T>(rule, norm, total);
  const PairProblem<T> problem =
      problem_of<T>(rule, width, {anchors, unit, squares.data(), start, end, own}, candidates);

  Tensor grad_anchors = empty({need_anchors ? anchors : 0, width}, dtype);
  Tensor grad_candidates = empty({need_candidates ? candidates : 0, width}, dtype);
  std::vector<T> unit_grads((grad_anchors.numel() + grad_candidates.numel()), T(0));
  T *anchor_grads = need_anchors ? unit_grads.data() : nullptr;
  T *candidate_grads = need_candidates && !self ? unit_grads.data() + grad_anchors.numel() : nullptr;
  const T *grad = sorted_grads.data();
  pair_backward<T>(
      problem,
      {row, row + anchors, row + 2 * anchors, row + 3 * anchors, grad, grad + anchors, grad + 2 * anchors},
      tiles.numel() ? tiles.const_data_ptr<T>() : nullptr, anchor_grads, candidate_grads);
  if (anchor_grads)
    scatter_gradients<T>(anchor_grads, unit, norm, poison.data(), sorted, rule.normalises, anchors, width,
                         grad_anchors.mutable_data_ptr<T>());
  if (candidate_grads) {
    const std::vector<T> of_anchors(candidates, poison_of(norm, anchors));
    scatter_gradients<T>(candidate_grads, unit + anchors * width, norm + anchors, of_anchors.data(),
                         sorted + anchors, rule.normalises, candidates, width,
                         grad_candidates.mutable_data_ptr<T>());
  }
  return {grad_anchors, grad_candidates};
}

ForwardResult pair_forward_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                               std::optional<Tensor> ref_labels, std::optional<Tensor> own,
                               std::optional<Tensor> row, std::string terms, Numbers constants,
                               Numbers selection, int64_t closeness, bool keep) {
  const auto run = embeddings.scalar_type() == ScalarType::Double ? forward<double> : forward<float>;
  return run(embeddings, labels, ref_embeddings, ref_labels, own, row,
             Rule(terms, constants, selection, closeness), keep);
}

std::tuple<Tensor, Tensor> pair_backward_cpu(Tensor grad_statistics, Tensor units, Tensor norms, Tensor order,
                                             Tensor spans, Tensor rows, Tensor tiles, std::string terms,
                                             Numbers constants, Numbers selection, int64_t closeness,
                                             bool need_anchors, bool need_candidates) {
  const auto run = units.scalar_type() == ScalarType::Double ? backward<double> : backward<float>;
  return run(grad_statistics, units, norms, order, spans, rows, tiles,
             Rule(terms, constants, selection, closeness), need_anchors, need_candidates);
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) {
  m.impl("pair_forward_cpu", TORCH_BOX(&pair_forward_cpu));
  m.impl("pair_backward_cpu", TORCH_BOX(&pair_backward_cpu));
}

} // namespace fastdml
