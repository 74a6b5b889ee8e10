#include "cuda/pair_ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <array>
#include <limits>

#include "cuda/device_scope.h"
#include "cuda/pair_engine.h"
#include "cuda/pair_rows.h"

namespace fastdml::cuda {
namespace {

using torch::headeronly::ScalarType;
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardResult = std::tuple<Tensor, Tensor>;

PairRule rule_named(const std::string &name) {
  if (name == "multi_similarity")
    return PairRule::multi_similarity;
  STD_TORCH_CHECK(false, "the cuda backend has no rule named ", name);
}

template <typename T> constexpr ScalarType dtype_of = ScalarType::Float;
template <> constexpr ScalarType dtype_of<double> = ScalarType::Double;

Tensor empty(const Tensor &like, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}
Tensor zeros(const Tensor &like, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_zeros(like, shape, dtype);
}

template <typename T> T *data(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }
template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

// Labels in ascending order and the input row of each, equal labels in input order.
struct Sorted {
  Tensor labels, rows;

  static Sorted by_label(const Tensor &labels) {
    using torch::stable::detail::from;
    using torch::stable::detail::to;
    const int64_t dim = -1;
    std::array<StableIValue, 4> stack{from(labels), from(std::optional<bool>(true)), from(dim), from(false)};
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
    return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
  }

  SortedLabels view() const {
    return {labels.numel(), const_data<int64_t>(labels), const_data<int64_t>(rows)};
  }
};

template <typename Input> Embeddings<Input> rows_of(const Tensor &embeddings) {
  return {const_data<Input>(embeddings), embeddings.stride(0), embeddings.stride(1)};
}

template <typename Input>
PairCall<Input> make_call(const std::string &rule, const std::vector<double> &constants, const Tensor &units,
                          const Tensor &norms, const Tensor &spans, int64_t anchors, bool self,
                          Stream stream) {
  const int64_t total = units.size(0), width = units.size(1);
  const Input *unit = const_data<Input>(units);
  const Accumulator<Input> *norm = const_data<Accumulator<Input>>(norms);
  const int32_t *start = const_data<int32_t>(spans), *end = start + total;
  const PairSide<Input> side{anchors, unit, norm, start, end};
  const PairSide<Input> other{total - anchors, unit + anchors * width, norm + anchors, start + anchors,
                              end + anchors};
  return {rule_named(rule), constants, units, {width, side, self ? side : other, self}, stream};
}

template <typename Input>
ForwardResult forward(const Tensor &embeddings, const Tensor &labels,
                      const std::optional<Tensor> &ref_embeddings, const std::optional<Tensor> &ref_labels,
                      const std::string &rule, const std::vector<double> &constants) {
  using T = Accumulator<Input>;
  const DeviceScope scope(embeddings);
  const Stream stream = scope.stream();
  const bool self = !ref_embeddings.has_value();
  const int64_t anchors = embeddings.size(0), width = embeddings.size(1);
  const int64_t candidates = self ? 0 : ref_embeddings->size(0), total = anchors + candidates;
  STD_TORCH_CHECK(total <= std::numeric_limits<int32_t>::max(), "at most 2^31 - 1 embeddings, got ", total);

  const Tensor losses = empty(embeddings, {anchors}, dtype_of<T>);
  const Tensor units = empty(embeddings, {total, width}, embeddings.scalar_type());
  const Tensor norms = empty(embeddings, {total}, dtype_of<T>);
  const Tensor order = empty(embeddings, {total}, ScalarType::Long);
  const Tensor spans = empty(embeddings, {2, total}, ScalarType::Int);
  const Tensor rows = empty(embeddings, {4, anchors}, dtype_of<T>);
  const Tensor tiles = empty(embeddings, {0}, dtype_of<T>);
  // A comparison with NaN is false, so a candidate that is not finite would else be left out silently.
  const Tensor poison = zeros(embeddings, {1}, dtype_of<T>);

  Input *unit = data<Input>(units);
  T *norm = data<T>(norms), *row = data<T>(rows);
  int64_t *sorted = data<int64_t>(order);
  int32_t *start = data<int32_t>(spans), *end = start + total;
  const Sorted side = Sorted::by_label(labels);
  if (self) {
    lay_out(side.view(), side.view(), sorted, start, end, stream);
    gather_units(rows_of<Input>(embeddings), sorted, anchors, width, unit, norm, data<T>(poison), stream);
  } else {
    const bool same_dtype = ref_embeddings->scalar_type() == embeddings.scalar_type();
    const Tensor other_rows =
        same_dtype ? *ref_embeddings : torch::stable::to(*ref_embeddings, embeddings.scalar_type());
    const Sorted other = Sorted::by_label(*ref_labels);
    lay_out(side.view(), other.view(), sorted, start, end, stream);
    lay_out(other.view(), side.view(), sorted + anchors, start + anchors, end + anchors, stream);
    gather_units(rows_of<Input>(embeddings), sorted, anchors, width, unit, norm, static_cast<T *>(nullptr),
                 stream);
    gather_units(rows_of<Input>(other_rows), sorted + anchors, candidates, width, unit + anchors * width,
                 norm + anchors, data<T>(poison), stream);
  }

  const auto call = make_call<Input>(rule, constants, units, norms, spans, anchors, self, stream);
  pair_forward<Input>(call, {row, row + anchors, row + 2 * anchors, row + 3 * anchors},
                      {data<T>(losses), sorted, norm, const_data<T>(poison)});
  return {losses, units, norms, order, spans, rows, tiles};
}

template <typename Input>
BackwardResult backward(const Tensor &grad_losses, const Tensor &units, const Tensor &norms,
                        const Tensor &order, const Tensor &spans, const Tensor &rows, const std::string &rule,
                        const std::vector<double> &constants, bool need_anchors, bool need_candidates) {
  using T = Accumulator<Input>;
  const DeviceScope scope(units);
  const Stream stream = scope.stream();
  const int64_t anchors = rows.size(1), width = units.size(1), candidates = units.size(0) - anchors;
  const bool self = candidates == 0;
  const int64_t *sorted = const_data<int64_t>(order);
  T *row = data<T>(rows); // the thresholds are read only

  // Weights are stored in the input dtype: in fp16 the gradients are lifted by a power of two first.
  constexpr bool lifted = std::is_same_v<Input, torch::headeronly::Half>;
  const Tensor range = empty(units, {2}, dtype_of<T>);
  const T *lift = lifted ? const_data<T>(range) : nullptr;
  const T *grad = const_data<T>(grad_losses);
  if (lifted)
    find_range(grad, anchors, data<T>(range), stream);
  const Tensor scales = empty(units, {2, anchors}, dtype_of<T>);
  T *negative_scale = data<T>(scales), *positive_scale = negative_scale + anchors;
  scale_rows<T>({row + 2 * anchors, row + 3 * anchors}, grad, sorted, lift, anchors, negative_scale,
                positive_scale, stream);

  const int64_t anchor_rows = need_anchors ? anchors : 0, candidate_rows = need_candidates ? candidates : 0;
  const Tensor anchor_sums = zeros(units, {anchor_rows, width}, dtype_of<T>);
  const Tensor candidate_sums = zeros(units, {candidate_rows, width}, dtype_of<T>);
  const auto call = make_call<Input>(rule, constants, units, norms, spans, anchors, self, stream);
  pair_backward<Input>(call, {row, row + anchors, negative_scale, positive_scale}, anchor_sums,
                       candidate_sums);

  const Tensor grad_anchors = empty(units, {anchor_rows, width}, units.scalar_type());
  const Tensor grad_candidates = empty(units, {candidate_rows, width}, units.scalar_type());
  const Input *unit = const_data<Input>(units);
  const T *norm = const_data<T>(norms);
  scatter_gradients<Input>(const_data<T>(anchor_sums), unit, norm, sorted, lift, anchor_rows, width,
                           data<Input>(grad_anchors), stream);
  scatter_gradients<Input>(const_data<T>(candidate_sums), unit + anchors * width, norm + anchors,
                           sorted + anchors, lift, candidate_rows, width, data<Input>(grad_candidates),
                           stream);
  return {grad_anchors, grad_candidates};
}

// Calls run(one Input) for the type that a dtype names.
template <typename Result, typename Run> Result for_dtype(ScalarType dtype, const Run &run) {
  switch (dtype) {
  case ScalarType::Double:
    return run(double());
  case ScalarType::Float:
    return run(float());
  case ScalarType::BFloat16:
    return run(torch::headeronly::BFloat16());
  case ScalarType::Half:
    return run(torch::headeronly::Half());
  default:
    STD_TORCH_CHECK(false, "embeddings must be float64, float32, bfloat16 or float16");
  }
}

} // namespace

ForwardResult pair_forward_op(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                              std::optional<Tensor> ref_labels, std::string rule,
                              std::vector<double> constants, bool) {
  return for_dtype<ForwardResult>(embeddings.scalar_type(), [&](auto input) {
    return forward<decltype(input)>(embeddings, labels, ref_embeddings, ref_labels, rule, constants);
  });
}

BackwardResult pair_backward_op(Tensor grad_losses, Tensor units, Tensor norms, Tensor order, Tensor spans,
                                Tensor rows, Tensor, std::string rule, std::vector<double> constants,
                                bool need_anchors, bool need_candidates) {
  return for_dtype<BackwardResult>(units.scalar_type(), [&](auto input) {
    return backward<decltype(input)>(grad_losses, units, norms, order, spans, rows, rule, constants,
                                     need_anchors, need_candidates);
  });
}

} // namespace fastdml::cuda
