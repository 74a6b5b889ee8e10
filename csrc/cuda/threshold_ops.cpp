#include "cuda/threshold_ops.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <vector>

#include "cuda/device_scope.h"
#include "cuda/threshold_engine.h"

namespace fastdml::cuda {
namespace {

using torch::headeronly::ScalarType;
using Result = std::tuple<Tensor, Tensor>;

// The numbers of a closeness are those of fastdml/rules/closeness.py: 4 more where rows are not normalised.
constexpr int64_t unnormalised = 4;

template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

Tensor zeros(const Tensor &like, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_zeros(like, shape, dtype);
}

struct Side {
  Tensor rows, squares, labels;

  Side(const Tensor &rows, const Tensor &squares, const Tensor &labels)
      : rows(torch::stable::contiguous(rows)), squares(torch::stable::contiguous(squares)),
        labels(torch::stable::contiguous(labels)) {}

  template <typename T> ThresholdSide<T> view() const {
    return {rows.size(0), const_data<T>(squares), const_data<int64_t>(labels)};
  }
};

// What both operators are given, packed.
class Given {
public:
  Given(const Tensor &rows, const Tensor &squares, const Tensor &labels, const std::optional<Tensor> &refs,
        const std::optional<Tensor> &ref_squares, const std::optional<Tensor> &ref_labels,
        const std::optional<Tensor> &own, const Tensor &thresholds, const Tensor &offsets, int64_t closeness)
      : anchors(rows, squares, labels), candidates(refs ? Side(*refs, *ref_squares, *ref_labels) : anchors),
        thresholds(torch::stable::contiguous(thresholds)), self(!refs),
        offsets_(torch::stable::contiguous(offsets)), closeness_(closeness) {
    STD_TORCH_CHECK(closeness >= 0 && closeness < 7 && closeness != 3,
                    "closeness must be 0, 1, 2, 4, 5 or 6, got ", closeness);
    STD_TORCH_CHECK(candidates.rows.size(0) <= std::numeric_limits<int32_t>::max(),
                    "at most 2^31 - 1 candidates, got ", candidates.rows.size(0));
    if (refs && own)
      own_ = torch::stable::contiguous(*own);
  }

  // Whether there is anything to compare.
  bool any() const {
    return anchors.rows.size(0) > 0 && candidates.rows.size(0) > 0 && thresholds.numel() > 0;
  }

  template <typename T> ThresholdCall<T> call(Stream stream) const {
    const auto kind = static_cast<Closeness>(closeness_ % unnormalised);
    return {anchors.rows,
            candidates.rows,
            {kind, anchors.view<T>(), candidates.view<T>(), own_ ? const_data<int64_t>(*own_) : nullptr,
             const_data<T>(thresholds), const_data<int64_t>(offsets_)},
            self,
            closeness_ > unnormalised,
            stream};
  }

  const Side anchors, candidates; // the same for self-pairs
  const Tensor thresholds;
  const bool self;

private:
  const Tensor offsets_;
  std::optional<Tensor> own_;
  const int64_t closeness_;
};

// Calls run(one T) for the type of the rows.
template <typename Run> void for_dtype(const Tensor &rows, const Run &run) {
  const ScalarType dtype = rows.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "rows must be float32 or float64");
  if (dtype == ScalarType::Double)
    run(double());
  else
    run(float());
}

} // namespace

Result threshold_forward_op(Tensor rows, Tensor squares, Tensor labels, std::optional<Tensor> refs,
                            std::optional<Tensor> ref_squares, std::optional<Tensor> ref_labels,
                            std::optional<Tensor> own, Tensor thresholds, Tensor offsets, int64_t closeness) {
  const DeviceScope scope(rows);
  const Given given(rows, squares, labels, refs, ref_squares, ref_labels, own, thresholds, offsets,
                    closeness);
  const Tensor counts = zeros(rows, {thresholds.numel()}, ScalarType::Double),
               sums = zeros(rows, {thresholds.numel()}, ScalarType::Double);
  for_dtype(rows, [&](auto zero) {
    if (given.any())
      threshold_forward(given.call<decltype(zero)>(scope.stream()),
                        static_cast<double *>(counts.mutable_data_ptr()),
                        static_cast<double *>(sums.mutable_data_ptr()));
  });
  return {counts, sums};
}

Result threshold_backward_op(Tensor grad_sums, Tensor rows, Tensor squares, Tensor labels,
                             std::optional<Tensor> refs, std::optional<Tensor> ref_squares,
                             std::optional<Tensor> ref_labels, std::optional<Tensor> own, Tensor thresholds,
                             Tensor offsets, int64_t closeness, bool need_rows, bool need_refs) {
  const DeviceScope scope(rows);
  const Given given(rows, squares, labels, refs, ref_squares, ref_labels, own, thresholds, offsets,
                    closeness);
  const Tensor grads = torch::stable::contiguous(grad_sums);
  const int64_t width = rows.size(1);
  const Tensor grad_rows = zeros(rows, {need_rows ? rows.size(0) : 0, width}, rows.scalar_type()),
               grad_refs = zeros(rows, {need_refs && refs ? refs->size(0) : 0, width}, rows.scalar_type());
  for_dtype(rows, [&](auto zero) {
    if (given.any())
      threshold_backward(given.call<decltype(zero)>(scope.stream()), const_data<double>(grads), grad_rows,
                         grad_refs);
  });
  return {grad_rows, grad_refs};
}

} // namespace fastdml::cuda
