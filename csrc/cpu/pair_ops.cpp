// The cpu operators of the pair engine: tensors in, tensors out.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/pair_engine.h"
#include "cpu/pair_layout.h"

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

constexpr double smallest_norm = 1e-12; // as torch.nn.functional.normalize

PairRule rule_named(const std::string &name) {
  if (name == "multi_similarity")
    return PairRule::multi_similarity;
  STD_TORCH_CHECK(false, "the cpu backend has no rule named ", name);
}

Tensor empty(std::vector<int64_t> shape, ScalarType dtype) { return torch::stable::empty(shape, dtype); }

template <typename F> void for_rows(int64_t rows, int64_t width, const F &f) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      f(i);
  });
}

// units[k] = embeddings[order[k]] / norm, norms[k] = that row's L2 norm.
template <typename T, typename Input>
void gather_units(const Tensor &embeddings, const int64_t *order, T *units, T *norms) {
  const Input *data = static_cast<const Input *>(embeddings.const_data_ptr());
  const int64_t width = embeddings.size(1), row_stride = embeddings.stride(0),
                column_stride = embeddings.stride(1);
  for_rows(embeddings.size(0), width, [&](int64_t k) {
    const Input *row = data + order[k] * row_stride;
    T *unit = units + k * width;
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < width; ++j) {
      const T value = static_cast<T>(row[j * column_stride]);
      unit[j] = value;
      squares += value * value;
    }
    norms[k] = std::sqrt(squares);
    const T length = std::isnan(norms[k]) ? norms[k] : std::max(norms[k], static_cast<T>(smallest_norm));
    for (int64_t j = 0; j < width; ++j)
      unit[j] /= length;
  });
}

template <typename T> void gather_units(const Tensor &embeddings, const int64_t *order, T *units, T *norms) {
  switch (embeddings.scalar_type()) {
  case ScalarType::Double:
    return gather_units<T, double>(embeddings, order, units, norms);
  case ScalarType::Float:
    return gather_units<T, float>(embeddings, order, units, norms);
  case ScalarType::BFloat16:
    return gather_units<T, torch::headeronly::BFloat16>(embeddings, order, units, norms);
  case ScalarType::Half:
    return gather_units<T, torch::headeronly::Half>(embeddings, order, units, norms);
  default:
    STD_TORCH_CHECK(false, "embeddings must be float64, float32, bfloat16 or float16");
  }
}

// out[order[k]] = the part of grads[k] that turns the unit row, over the row's norm; rows too short to be
// normalised were divided by a constant.
template <typename T>
void scatter_gradients(const T *grads, const T *units, const T *norms, const int64_t *order, int64_t rows,
                       int64_t width, T *out) {
  for_rows(rows, width, [&](int64_t k) {
    const T *grad = grads + k * width, *unit = units + k * width;
    T *result = out + order[k] * width;
    T along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < width; ++j)
      along += grad[j] * unit[j];
    const bool is_short = norms[k] < static_cast<T>(smallest_norm);
    const T length = is_short ? static_cast<T>(smallest_norm) : norms[k];
    const T turned_off = is_short ? T(0) : along;
    for (int64_t j = 0; j < width; ++j)
      result[j] = (grad[j] - turned_off * unit[j]) / length;
  });
}

// 0 for finite norms, NaN otherwise: comparisons with NaN are false, so a NaN row would else be silently left
// out.
template <typename T> T poison_of(const T *norms, int64_t count) {
  T poison = 0;
  for (int64_t k = 0; k < count; ++k)
    poison += norms[k] * T(0);
  return poison;
}

// The candidates' rows follow the anchors'; none of them means self-pairs.
template <typename T>
PairProblem<T> problem_of(PairRule rule, const std::vector<double> &constants, int64_t width,
                          const PairSide<T> &anchors, int64_t candidates) {
  const int64_t first = anchors.count;
  const PairSide<T> after{candidates, anchors.units + first * width, anchors.start + first,
                          anchors.end + first};
  const bool self = candidates == 0;
  return {
      &pair_kernels_for_this_cpu<T>(rule), constants.data(), width, anchors, self ? anchors : after, self};
}

template <typename T>
ForwardResult forward(const Tensor &embeddings, const Tensor &labels,
                      const std::optional<Tensor> &ref_embeddings, const std::optional<Tensor> &ref_labels,
                      PairRule rule, const std::vector<double> &constants, bool keep) {
  const ScalarType dtype = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const bool self = !ref_embeddings.has_value();
  const int64_t anchors = embeddings.size(0), width = embeddings.size(1);
  const int64_t candidates = self ? 0 : ref_embeddings->size(0), total = anchors + candidates;
  Tensor losses = empty({anchors}, dtype), units = empty({total, width}, dtype),
         norms = empty({total}, dtype);
  Tensor order = empty({total}, ScalarType::Long), spans = empty({2, total}, ScalarType::Int);
  Tensor rows = empty({4, anchors}, dtype);
  Tensor tiles = empty({keep ? kept_elements(anchors, self ? anchors : candidates, self) : 0}, dtype);

  T *unit = units.mutable_data_ptr<T>(), *norm = norms.mutable_data_ptr<T>(),
    *row = rows.mutable_data_ptr<T>();
  int64_t *sorted = order.mutable_data_ptr<int64_t>();
  int32_t *start = spans.mutable_data_ptr<int32_t>(), *end = start + total;
  const Tensor label_rows = torch::stable::contiguous(labels);
  const Tensor ref_label_rows = self ? label_rows : torch::stable::contiguous(*ref_labels);
  const int64_t *label = label_rows.const_data_ptr<int64_t>(),
                *ref_label = ref_label_rows.const_data_ptr<int64_t>();
  sort_by_label(label, anchors, sorted);
  gather_units<T>(embeddings, sorted, unit, norm);
  if (self) {
    positive_spans(label, sorted, anchors, label, sorted, anchors, start, end);
  } else {
    int64_t *ref_sorted = sorted + anchors;
    sort_by_label(ref_label, candidates, ref_sorted);
    gather_units<T>(*ref_embeddings, ref_sorted, unit + anchors * width, norm + anchors);
    positive_spans(label, sorted, anchors, ref_label, ref_sorted, candidates, start, end);
    positive_spans(ref_label, ref_sorted, candidates, label, sorted, anchors, start + anchors, end + anchors);
  }

  const PairProblem<T> problem =
      problem_of<T>(rule, constants, width, {anchors, unit, start, end}, candidates);
  std::vector<T> sorted_losses(anchors);
  pair_forward<T>(problem, sorted_losses.data(), {row, row + anchors, row + 2 * anchors, row + 3 * anchors},
                  tiles.numel() ? tiles.mutable_data_ptr<T>() : nullptr);

  T *loss = losses.mutable_data_ptr<T>();
  const T poison = self ? poison_of(norm, anchors) : poison_of(norm + anchors, candidates);
  for (int64_t k = 0; k < anchors; ++k) {
    const T own = poison + norm[k] * T(0);
    loss[sorted[k]] = sorted_losses[k] + own;
    row[2 * anchors + k] += own;
    row[3 * anchors + k] += own;
  }
  return {losses, units, norms, order, spans, rows, tiles};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(const Tensor &grad_losses, const Tensor &units, const Tensor &norms,
                                    const Tensor &order, const Tensor &spans, const Tensor &rows,
                                    const Tensor &tiles, PairRule rule, const std::vector<double> &constants,
                                    bool need_anchors, bool need_candidates) {
  const ScalarType dtype = units.scalar_type();
  const int64_t anchors = rows.size(1), total = units.size(0), candidates = total - anchors,
                width = units.size(1);
  const bool self = candidates == 0;
  const T *unit = units.const_data_ptr<T>(), *norm = norms.const_data_ptr<T>(),
          *row = rows.const_data_ptr<T>();
  const T *grad = grad_losses.const_data_ptr<T>();
  const int64_t *sorted = order.const_data_ptr<int64_t>();
  const int32_t *start = spans.const_data_ptr<int32_t>(), *end = start + total;

  std::vector<T> negative_scale(anchors), positive_scale(anchors);
  for (int64_t k = 0; k < anchors; ++k) {
    negative_scale[k] = row[2 * anchors + k] * grad[sorted[k]];
    positive_scale[k] = row[3 * anchors + k] * grad[sorted[k]];
  }
  const PairProblem<T> problem =
      problem_of<T>(rule, constants, width, {anchors, unit, start, end}, candidates);

  Tensor grad_anchors = empty({need_anchors ? anchors : 0, width}, dtype);
  Tensor grad_candidates = empty({need_candidates ? candidates : 0, width}, dtype);
  std::vector<T> unit_grads((grad_anchors.numel() + grad_candidates.numel()), T(0));
  T *anchor_grads = need_anchors ? unit_grads.data() : nullptr;
  T *candidate_grads = need_candidates && !self ? unit_grads.data() + grad_anchors.numel() : nullptr;
  pair_backward<T>(problem, {row, row + anchors, negative_scale.data(), positive_scale.data()},
                   tiles.numel() ? tiles.const_data_ptr<T>() : nullptr, anchor_grads, candidate_grads);
  if (anchor_grads)
    scatter_gradients<T>(anchor_grads, unit, norm, sorted, anchors, width,
                         grad_anchors.mutable_data_ptr<T>());
  if (candidate_grads)
    scatter_gradients<T>(candidate_grads, unit + anchors * width, norm + anchors, sorted + anchors,
                         candidates, width, grad_candidates.mutable_data_ptr<T>());
  return {grad_anchors, grad_candidates};
}

ForwardResult pair_forward_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                               std::optional<Tensor> ref_labels, std::string rule,
                               std::vector<double> constants, bool keep) {
  const auto run = embeddings.scalar_type() == ScalarType::Double ? forward<double> : forward<float>;
  return run(embeddings, labels, ref_embeddings, ref_labels, rule_named(rule), constants, keep);
}

std::tuple<Tensor, Tensor> pair_backward_cpu(Tensor grad_losses, Tensor units, Tensor norms, Tensor order,
                                             Tensor spans, Tensor rows, Tensor tiles, std::string rule,
                                             std::vector<double> constants, bool need_anchors,
                                             bool need_candidates) {
  const auto run = units.scalar_type() == ScalarType::Double ? backward<double> : backward<float>;
  return run(grad_losses, units, norms, order, spans, rows, tiles, rule_named(rule), constants, need_anchors,
             need_candidates);
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) {
  m.impl("pair_forward_cpu", TORCH_BOX(&pair_forward_cpu));
  m.impl("pair_backward_cpu", TORCH_BOX(&pair_backward_cpu));
}

} // namespace fastdml
