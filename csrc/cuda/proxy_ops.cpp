#include "cuda/proxy_ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <vector>

#include "cuda/device_scope.h"
#include "cuda/proxy_engine.h"

namespace fastdml::cuda {
namespace {

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardResult = std::tuple<Tensor, Tensor>;

// Below it the most similar centre counts alone; fastdml/rules/proxy.py states the same.
constexpr double sharpest = 1e-30;

template <typename T> T *data(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }
template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

Tensor empty(const Tensor &like, std::vector<int64_t> shape) { return torch::stable::new_empty(like, shape); }

// What both operators are given, checked and packed.
class Given {
public:
  Given(const Tensor &rows, const Tensor &centres, const Tensor &labels, const std::optional<Tensor> &shares,
        int64_t per_class, bool columns, bool normalised, double scale, double gamma)
      : rows(torch::stable::contiguous(rows)), centres(centres), columns(columns), normalised(normalised),
        count(centres.size(columns ? 1 : 0)), labels_(torch::stable::contiguous(labels)),
        per_class_(per_class), scale_(scale), gamma_(gamma) {
    STD_TORCH_CHECK(!shares.has_value(), "shares of classes have no cuda kernels");
    STD_TORCH_CHECK(rows.numel() > 0 && centres.numel() > 0, "rows and centres must not be empty, got ",
                    rows.numel(), " and ", centres.numel(), " numbers");
    STD_TORCH_CHECK(per_class > 0 && count % per_class == 0, "per_class must divide the number of centres, ",
                    count, ", got ", per_class);
  }

  template <typename Input> StoredCentres<Input> stored(Input *data, const Tensor &layout) const {
    return {data, layout.stride(columns ? 1 : 0), layout.stride(columns ? 0 : 1)};
  }

  template <typename T, typename Input> ProxyCall<T, Input> call(Stream stream) const {
    const bool soft = per_class_ > 1 && gamma_ > sharpest;
    return {rows,
            stored(const_data<Input>(centres), centres),
            count / per_class_,
            normalised,
            {rows.size(0), const_data<int64_t>(labels_), per_class_, soft ? static_cast<T>(1 / gamma_) : T(0),
             static_cast<T>(scale_)},
            stream};
  }

  const Tensor rows, centres;
  const bool columns, normalised;
  const int64_t count; // of the centres

private:
  const Tensor labels_;
  const int64_t per_class_;
  const double scale_, gamma_;
};

// Calls run(one T, one Input) for the types of the rows and of the centres.
template <typename Result, typename Run>
Result for_dtypes(const Tensor &rows, const Tensor &centres, const Run &run) {
  const ScalarType dtype = rows.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "rows must be float32 or float64");
  const auto for_input = [&](auto input) {
    return dtype == ScalarType::Double ? run(double(), input) : run(float(), input);
  };
  switch (centres.scalar_type()) {
  case ScalarType::Double:
    return for_input(double());
  case ScalarType::Float:
    return for_input(float());
  case ScalarType::BFloat16:
    return for_input(torch::headeronly::BFloat16());
  case ScalarType::Half:
    return for_input(torch::headeronly::Half());
  default:
    STD_TORCH_CHECK(false, "centres must be float64, float32, bfloat16 or float16");
  }
}

} // namespace

ForwardResult proxy_forward_op(Tensor rows, Tensor centres, Tensor labels, std::optional<Tensor> shares,
                               int64_t per_class, bool columns, bool normalised, double scale, double gamma,
                               ScalarType, bool spread) {
  const DeviceScope scope(rows);
  const Given given(rows, centres, labels, shares, per_class, columns, normalised, scale, gamma);
  const int64_t samples = rows.size(0);
  const Tensor others = empty(rows, {samples}), target = empty(rows, {samples}),
               total = empty(rows, {samples}), norms = empty(rows, {given.count}),
               spreads = empty(rows, {spread ? given.count / per_class : 0});
  return for_dtypes<ForwardResult>(rows, centres, [&](auto sum, auto input) -> ForwardResult {
    using T = decltype(sum);
    proxy_forward(given.call<T, decltype(input)>(scope.stream()),
                  {data<T>(others), data<T>(target), data<T>(total), spread ? data<T>(spreads) : nullptr,
                   data<T>(norms)});
    return {others, target, total, spreads, norms};
  });
}

BackwardResult proxy_backward_op(Tensor grad_others, Tensor grad_target, Tensor grad_total,
                                 Tensor grad_spread, Tensor rows, Tensor centres, Tensor labels,
                                 std::optional<Tensor> shares, Tensor others, Tensor norms, int64_t per_class,
                                 bool columns, bool normalised, double scale, double gamma, ScalarType,
                                 bool need_rows, bool need_centres) {
  using torch::stable::contiguous;
  const DeviceScope scope(rows);
  const Given given(rows, centres, labels, shares, per_class, columns, normalised, scale, gamma);
  const Tensor of_others = contiguous(grad_others), of_target = contiguous(grad_target),
               of_total = contiguous(grad_total), of_spread = contiguous(grad_spread),
               found = contiguous(others), lengths = contiguous(norms);
  const Tensor grad_rows = empty(rows, {need_rows ? rows.size(0) : 0, rows.size(1)});
  const Tensor grad_centres =
      empty(centres, {need_centres ? centres.size(0) : 0, need_centres ? centres.size(1) : 0});
  return for_dtypes<BackwardResult>(rows, centres, [&](auto sum, auto input) -> BackwardResult {
    using T = decltype(sum);
    using Input = decltype(input);
    proxy_backward(
        given.call<T, Input>(scope.stream()),
        {const_data<T>(of_others), const_data<T>(of_target), const_data<T>(of_total), const_data<T>(found)},
        of_spread.numel() > 0 ? const_data<T>(of_spread) : nullptr, const_data<T>(lengths), grad_rows,
        given.stored(need_centres ? data<Input>(grad_centres) : nullptr, grad_centres));
    return {grad_rows, grad_centres};
  });
}

} // namespace fastdml::cuda
