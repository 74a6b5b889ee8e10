// The cpu operators of the proxy engine: tensors in, tensors out.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/proxy_engine.h"

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Tensor empty(std::vector<int64_t> shape, ScalarType dtype) { return torch::stable::empty(shape, dtype); }

struct Settings {
  int64_t per_class;
  bool columns, normalised;
  double scale, gamma;
};

// A problem with all that it borrows; fastdml/engines/proxy_ops.py documents the arguments.
template <typename T> class Laid {
public:
  Laid(const Tensor &rows, const Tensor &centres, const Tensor &labels, const std::optional<Tensor> &shares,
       const Settings &settings)
      : rows_(torch::stable::contiguous(rows)), centres_(torch::stable::contiguous(centres)),
        label_(rows.size(0)) {
    STD_TORCH_CHECK(rows.numel() > 0 && centres.numel() > 0, "rows and centres must not be empty");
    STD_TORCH_CHECK(!shares.has_value(), "the cpu backend takes no shares of classes");
    STD_TORCH_CHECK(centres.scalar_type() == rows.scalar_type(),
                    "the cpu backend takes centres of the dtype of the rows");
    const int64_t count = centres.size(settings.columns ? 1 : 0), classes = count / settings.per_class;
    STD_TORCH_CHECK(classes * settings.per_class == count && classes <= std::numeric_limits<int32_t>::max(),
                    "centres must be those of less than 2^31 classes of ", settings.per_class, ", got ",
                    count);
    const Tensor given = torch::stable::contiguous(labels);
    const int64_t *label = given.const_data_ptr<int64_t>();
    for (size_t j = 0; j < label_.size(); ++j)
      label_[j] = label[j] >= 0 && label[j] < classes ? static_cast<int32_t>(label[j]) : -1;
    const Pooling pooling = settings.per_class == 1 ? Pooling::single
                            : settings.gamma == 0   ? Pooling::closest
                                                    : Pooling::soft;
    problem_ = {rows.size(0),
                rows.size(1),
                classes,
                settings.per_class,
                rows_.const_data_ptr<T>(),
                label_.data(),
                centres_.const_data_ptr<T>(),
                settings.columns,
                settings.normalised,
                pooling,
                static_cast<T>(settings.scale),
                static_cast<T>(settings.gamma == 0 ? 0 : 1 / settings.gamma),
                most_similarity(settings)};
  }
  Laid(const Laid &) = delete;
  Laid &operator=(const Laid &) = delete;

  const ProxyProblem<T> &problem() const { return problem_; }

  // A row that is not finite makes its own sums NaN, a centre those of all.
  void poison(const T *norms, ProxyStatistics<T> found) const {
    T of_all = 0;
    for (int64_t k = 0; k < problem_.centre_count(); ++k)
      of_all += T(0) * norms[k];
    for (int64_t j = 0; j < problem_.samples; ++j) {
      T of_sample = of_all;
      for (int64_t d = 0; d < problem_.width; ++d)
        of_sample += T(0) * problem_.rows[j * problem_.width + d];
      found.others[j] += of_sample;
      found.target[j] += of_sample;
      found.total[j] += of_sample;
    }
  }

private:
  // What no similarity exceeds where centres have length one, if exponentials of the whole range below it,
  // divided by gamma, are far from leaving float32; else infinite.
  T most_similarity(const Settings &settings) const {
    constexpr T widest = 80;
    const int64_t width = rows_.size(1);
    const T *row = rows_.const_data_ptr<T>();
    T longest = 0;
    for (int64_t j = 0; j < rows_.size(0); ++j) {
      T square = 0;
      for (int64_t d = 0; d < width; ++d)
        square += row[j * width + d] * row[j * width + d];
      longest = square <= longest ? longest : square; // NaN is longer
    }
    const T most = std::sqrt(longest) * T(1.00001);
    const bool fits = settings.normalised && T(2) * most <= widest * static_cast<T>(settings.gamma);
    return fits ? most : std::numeric_limits<T>::infinity();
  }

  Tensor rows_, centres_;
  std::vector<int32_t> label_;
  ProxyProblem<T> problem_{};
};

template <typename T>
ForwardResult forward(const Tensor &rows, const Tensor &centres, const Tensor &labels,
                      const std::optional<Tensor> &shares, const Settings &settings, bool spread) {
  const Laid<T> laid(rows, centres, labels, shares, settings);
  const ProxyProblem<T> &problem = laid.problem();
  const ScalarType dtype = rows.scalar_type();
  const auto of_samples = [&] { return empty({problem.samples}, dtype); };
  Tensor others = of_samples(), target = of_samples(), total = of_samples(),
         spreads = empty({spread ? problem.classes : 0}, dtype),
         norms = empty({problem.centre_count()}, dtype);
  const ProxyStatistics<T> found{
      others.mutable_data_ptr<T>(), target.mutable_data_ptr<T>(), total.mutable_data_ptr<T>(),
      spread ? spreads.mutable_data_ptr<T>() : nullptr, norms.mutable_data_ptr<T>()};
  proxy_forward<T>(problem, found);
  laid.poison(found.norms, found);
  return {others, target, total, spreads, norms};
}

template <typename T>
std::tuple<Tensor, Tensor>
backward(const std::vector<Tensor> &given, const Tensor &rows, const Tensor &centres, const Tensor &labels,
         const std::optional<Tensor> &shares, const Settings &settings, bool need_rows, bool need_centres) {
  const Laid<T> laid(rows, centres, labels, shares, settings);
  std::vector<Tensor> saved;
  for (const Tensor &tensor : given)
    saved.push_back(torch::stable::contiguous(tensor));
  const auto data = [&](size_t i) { return saved[i].template const_data_ptr<T>(); };
  const ScalarType dtype = rows.scalar_type();
  Tensor grad_rows = empty({need_rows ? rows.size(0) : 0, rows.size(1)}, dtype),
         grad_centres =
             empty({need_centres ? centres.size(0) : 0, need_centres ? centres.size(1) : 0}, dtype);
  T *by_row = need_rows ? grad_rows.mutable_data_ptr<T>() : nullptr,
    *by_centre = need_centres ? grad_centres.mutable_data_ptr<T>() : nullptr;
  if (by_row)
    std::fill_n(by_row, rows.numel(), T(0));
  proxy_backward<T>(laid.problem(), {data(0), data(1), data(2), data(4)},
                    saved[3].numel() ? data(3) : nullptr, data(5), by_row, by_centre);
  return {grad_rows, grad_centres};
}

ForwardResult proxy_forward_cpu(Tensor rows, Tensor centres, Tensor labels, std::optional<Tensor> shares,
                                int64_t per_class, bool columns, bool normalised, double scale, double gamma,
                                ScalarType /*product*/, bool spread) {
  const auto run = rows.scalar_type() == ScalarType::Double ? forward<double> : forward<float>;
  return run(rows, centres, labels, shares, {per_class, columns, normalised, scale, gamma}, spread);
}

std::tuple<Tensor, Tensor> proxy_backward_cpu(Tensor grad_others, Tensor grad_target, Tensor grad_total,
                                              Tensor grad_spread, Tensor rows, Tensor centres, Tensor labels,
                                              std::optional<Tensor> shares, Tensor others, Tensor norms,
                                              int64_t per_class, bool columns, bool normalised, double scale,
                                              double gamma, ScalarType /*product*/, bool need_rows,
                                              bool need_centres) {
  const auto run = rows.scalar_type() == ScalarType::Double ? backward<double> : backward<float>;
  return run({grad_others, grad_target, grad_total, grad_spread, others, norms}, rows, centres, labels,
             shares, {per_class, columns, normalised, scale, gamma}, need_rows, need_centres);
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) {
  m.impl("proxy_forward_cpu", TORCH_BOX(&proxy_forward_cpu));
  m.impl("proxy_backward_cpu", TORCH_BOX(&proxy_backward_cpu));
}

} // namespace fastdml
