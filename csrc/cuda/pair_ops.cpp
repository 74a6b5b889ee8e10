#include "cuda/pair_ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <limits>

#include "cuda/device_scope.h"
#include "cuda/pair_anchors.h"
#include "cuda/pair_engine.h"
#include "cuda/pair_rows.h"
#include "rules/circle.h"
#include "rules/exponential.h"
#include "rules/hinge.h"
#include "rules/info_nce.h"
#include "rules/softplus.h"
#include "torch_check.h"

namespace fastdml::cuda {
namespace {

using torch::headeronly::ScalarType;
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardResult = std::tuple<Tensor, Tensor>;

// What a call is about, as the operators take it.
struct Rule {
  const std::string &terms;
  const std::vector<double> &constants, &selection;
  int64_t closeness;
};

template <typename Input> PairKernels<Input> kernels_named(const std::string &terms) {
  if (terms == "exponential")
    return pair_kernels<Exponential, Input>();
  if (terms == "hinge")
    return pair_kernels<Hinge, Input>();
  if (terms == "softplus")
    return pair_kernels<Softplus, Input>();
  if (terms == "circle")
    return pair_kernels<Circle, Input>();
  if (terms == "info_nce")
    return pair_kernels<InfoNCE, Input>();
  STD_TORCH_CHECK(false, "terms must be exponential, hinge, softplus, circle or info_nce, got ", terms);
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
    FASTDML_CHECK_TORCH(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
    return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
  }

  SortedLabels view() const {
    return {labels.numel(), const_data<int64_t>(labels), const_data<int64_t>(rows)};
  }
};

template <typename Input> Embeddings<Input> strided_rows(const Tensor &embeddings) {
  return {const_data<Input>(embeddings), embeddings.stride(0), embeddings.stride(1)};
}

// The numbers of a closeness are those of fastdml/rules/closeness.py: 4 more where rows are not normalised.
constexpr int64_t unnormalised = 4;

template <typename Input>
PairCall<Input> make_call(const Rule &rule, const Tensor &rows, const Tensor &norms, const Tensor &spans,
                          int64_t anchors, bool self, Stream stream) {
  using T = Accumulator<Input>;
  const int64_t total = rows.size(0), width = rows.size(1);
  STD_TORCH_CHECK(rule.closeness >= 0 && rule.closeness <= unnormalised && rule.closeness != 3,
                  "closeness must be 0, 1, 2 or 4, got ", rule.closeness);
  const bool normalised = rule.closeness < unnormalised;
  const Input *stored = const_data<Input>(rows);
  const T *norm = const_data<T>(norms);
  const int32_t *start = const_data<int32_t>(spans), *end = start + total, *own = end + total;
  const PairSide<T> side{anchors, norm, start, end, own};
  const PairSide<T> other{total - anchors, norm + anchors, start + anchors, end + anchors, own + anchors};
  return {kernels_named<Input>(rule.terms),
          rule.constants,
          rows,
          {width, stored, self ? stored : stored + anchors * width},
          {side, self ? side : other, self, normalised, normalised && keeps_length<Input>,
           static_cast<Closeness>(rule.closeness % unnormalised),
           Selection<T>::from_constants(rule.selection.data())},
          stream};
}

// 0, or NaN where a candidate is not finite: comparisons with NaN are false, so it would be left out in
// silence.
template <typename T> Tensor poison_of(const PairSide<T> &candidates, const Tensor &like, Stream stream) {
  const Tensor poison = zeros(like, {1}, dtype_of<T>);
  find_poison(candidates.norms, candidates.count, data<T>(poison), stream);
  return poison;
}

template <typename T> PairRows<T> rows_of(const Tensor &rows) { // [4, anchors]
  T *row = data<T>(rows);
  const int64_t anchors = rows.size(1);
  return {row, row + anchors, row + 2 * anchors, row + 3 * anchors};
}

template <typename Input>
ForwardResult forward(const Tensor &embeddings, const Tensor &labels,
                      const std::optional<Tensor> &ref_embeddings, const std::optional<Tensor> &ref_labels,
                      const std::optional<Tensor> &own, const std::optional<Tensor> &row, const Rule &rule) {
  using T = Accumulator<Input>;
  const DeviceScope scope(embeddings);
  const Stream stream = scope.stream();
  const bool self = !ref_embeddings.has_value(), normalised = rule.closeness < unnormalised;
  const int64_t anchors = embeddings.size(0), width = embeddings.size(1);
  const int64_t candidates = self ? 0 : ref_embeddings->size(0), total = anchors + candidates;
  STD_TORCH_CHECK(total <= std::numeric_limits<int32_t>::max(), "at most 2^31 - 1 embeddings, got ", total);

  const Tensor statistics = empty(embeddings, {8, anchors}, dtype_of<T>);
  const Tensor stored = empty(embeddings, {total, width}, embeddings.scalar_type());
  const Tensor norms = empty(embeddings, {total}, dtype_of<T>);
  const Tensor order = empty(embeddings, {total}, ScalarType::Long);
  const Tensor spans = empty(embeddings, {3, total}, ScalarType::Int);
  const Tensor rows = empty(embeddings, {4, anchors}, dtype_of<T>);
  const Tensor tiles = empty(embeddings, {0}, dtype_of<T>);

  Input *to = data<Input>(stored);
  T *norm = data<T>(norms);
  int64_t *sorted = data<int64_t>(order);
  int32_t *start = data<int32_t>(spans), *end = start + total, *own_place = end + total;
  const Sorted side = Sorted::by_label(labels);
  if (self) {
    lay_out(side.view(), side.view(), {sorted, start, end}, stream);
    fill_own(own_place, anchors, stream);
  } else {
    const bool same_dtype = ref_embeddings->scalar_type() == embeddings.scalar_type();
    const Tensor other_rows =
        same_dtype ? *ref_embeddings : torch::stable::to(*ref_embeddings, embeddings.scalar_type());
    const Sorted other = Sorted::by_label(*ref_labels);
    lay_out(side.view(), other.view(), {sorted, start, end}, stream);
    lay_out(other.view(), side.view(), {sorted + anchors, start + anchors, end + anchors}, stream);
    clear_own(own_place, total, stream);
    if (own) {
      const Tensor given = torch::stable::contiguous(*own),
                   places = empty(embeddings, {candidates}, ScalarType::Int);
      find_own(const_data<int64_t>(given), sorted, anchors, other.view(), data<int32_t>(places), own_place,
               stream);
    }
    gather_rows(strided_rows<Input>(other_rows), normalised, sorted + anchors, candidates, width,
                to + anchors * width, norm + anchors, stream);
  }
  gather_rows(strided_rows<Input>(embeddings), normalised, sorted, anchors, width, to, norm, stream);

  const auto call = make_call<Input>(rule, stored, norms, spans, anchors, self, stream);
  const Tensor poison = poison_of(call.problem.candidates, embeddings, stream);
  const Tensor numbers = row ? torch::stable::contiguous(*row) : tiles;
  pair_forward<Input>(call, row ? const_data<T>(numbers) : nullptr, rows_of<T>(rows),
                      {data<T>(statistics), sorted, const_data<T>(poison)});
  return {statistics, stored, norms, order, spans, rows, tiles};
}

template <typename Input>
BackwardResult backward(const Tensor &grad_statistics, const Tensor &stored, const Tensor &norms,
                        const Tensor &order, const Tensor &spans, const Tensor &rows, const Rule &rule,
                        bool need_anchors, bool need_candidates) {
  using T = Accumulator<Input>;
  const DeviceScope scope(stored);
  const Stream stream = scope.stream();
  const int64_t anchors = rows.size(1), width = stored.size(1), candidates = stored.size(0) - anchors;
  const int64_t *sorted = const_data<int64_t>(order);
  const T *norm = const_data<T>(norms);
  const auto call = make_call<Input>(rule, stored, norms, spans, anchors, candidates == 0, stream);

  const Tensor poison = poison_of(call.problem.candidates, stored, stream);
  const Tensor given = torch::stable::contiguous(grad_statistics);
  const Tensor scales = empty(stored, {3, anchors}, dtype_of<T>);
  T *scale = data<T>(scales);
  const SumGradients<T> grads{scale, scale + anchors, scale + 2 * anchors};
  sort_gradients(const_data<T>(given), sorted, norm, const_data<T>(poison), anchors, grads, stream);

  const int64_t anchor_rows = need_anchors ? anchors : 0, candidate_rows = need_candidates ? candidates : 0;
  const Tensor anchor_sums = zeros(stored, {anchor_rows, width}, dtype_of<T>);
  const Tensor candidate_sums = zeros(stored, {candidate_rows, width}, dtype_of<T>);
  pair_backward<Input>(call, rows_of<T>(rows), grads, anchor_sums, candidate_sums);

  const Tensor grad_anchors = empty(stored, {anchor_rows, width}, stored.scalar_type());
  const Tensor grad_candidates = empty(stored, {candidate_rows, width}, stored.scalar_type());
  const Input *row = const_data<Input>(stored);
  const bool normalised = call.problem.normalised;
  scatter_gradients<Input>(const_data<T>(anchor_sums), row, norm, normalised, sorted, anchor_rows, width,
                           data<Input>(grad_anchors), stream);
  scatter_gradients<Input>(const_data<T>(candidate_sums), row + anchors * width, norm + anchors, normalised,
                           sorted + anchors, candidate_rows, width, data<Input>(grad_candidates), stream);
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
                              std::optional<Tensor> ref_labels, std::optional<Tensor> own,
                              std::optional<Tensor> row, std::string terms, std::vector<double> constants,
                              std::vector<double> selection, int64_t closeness, bool) {
  const Rule rule{terms, constants, selection, closeness};
  return for_dtype<ForwardResult>(embeddings.scalar_type(), [&](auto input) {
    return forward<decltype(input)>(embeddings, labels, ref_embeddings, ref_labels, own, row, rule);
  });
}

BackwardResult pair_backward_op(Tensor grad_statistics, Tensor units, Tensor norms, Tensor order,
                                Tensor spans, Tensor rows, Tensor, std::string terms,
                                std::vector<double> constants, std::vector<double> selection,
                                int64_t closeness, bool need_anchors, bool need_candidates) {
  const Rule rule{terms, constants, selection, closeness};
  return for_dtype<BackwardResult>(units.scalar_type(), [&](auto input) {
    return backward<decltype(input)>(grad_statistics, units, norms, order, spans, rows, rule, need_anchors,
                                     need_candidates);
  });
}

} // namespace fastdml::cuda
