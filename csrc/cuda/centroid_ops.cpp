#include "cuda/centroid_ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "cuda/centroid_engine.h"
#include "cuda/centroid_lists.h"
#include "cuda/device_scope.h"
#include "torch_check.h"

namespace fastdml::cuda {
namespace {

using Gradients = std::tuple<Tensor, Tensor>;

template <typename T> T *data(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }
template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

Tensor empty(const Tensor &like, std::vector<int64_t> shape) { return torch::stable::new_empty(like, shape); }

// The shape as Python writes it; -1: any.
std::string written(const std::vector<int64_t> &shape) {
  std::string text;
  for (const int64_t size : shape)
    text += (text.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
  return "[" + text + "]";
}

// Contiguous, and as it must be: of the dtype and of the shape, in which -1 is any size.
Tensor packed(const Tensor &tensor, const char *name, std::vector<int64_t> shape, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name,
                  dtype == ScalarType::Long ? " must be int64" : " must have the dtype of rows", ", got ",
                  tensor.scalar_type());
  std::vector<int64_t> found;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim)
    found.push_back(tensor.size(dim));
  bool fits = found.size() == shape.size();
  for (size_t dim = 0; fits && dim < shape.size(); ++dim)
    fits = shape[dim] < 0 || found[dim] == shape[dim];
  STD_TORCH_CHECK(fits, name, " must have shape ", written(shape), ", got ", written(found));
  return torch::stable::contiguous(tensor);
}

// Calls run(one T) for float32 and float64.
template <typename Result, typename Run>
Result for_dtype(ScalarType dtype, const char *name, const Run &run) {
  switch (dtype) {
  case ScalarType::Float:
    return run(float());
  case ScalarType::Double:
    return run(double());
  default:
    STD_TORCH_CHECK(false, name, " must be float32 or float64, got ", dtype);
  }
}

// Rows and points, checked and packed.
struct Given {
  const DeviceScope scope;
  const Tensor rows, points;

  Given(const Tensor &rows, const Tensor &points)
      : scope(rows), rows(torch::stable::contiguous(rows)),
        points(packed(points, "points", {-1, rows.size(1)}, rows.scalar_type())) {
    STD_TORCH_CHECK(rows.numel() > 0 && points.numel() > 0, "rows and points must not be empty, got ",
                    rows.numel(), " and ", points.numel(), " numbers");
  }

  CentroidCall call() const { return {rows, points, scope.stream()}; }

  // Calls run(one T) for the type of the rows.
  template <typename Result, typename Run> Result run(const Run &run) const {
    return for_dtype<Result>(rows.scalar_type(), "rows", run);
  }

  // [B]
  Tensor vector_of_rows(const Tensor &tensor, const char *name, ScalarType dtype) const {
    return packed(tensor, name, {rows.size(0)}, dtype);
  }

  Gradients new_gradients(bool need_rows, bool need_points) const {
    return {empty(rows, {need_rows ? rows.size(0) : 0, rows.size(1)}),
            empty(points, {need_points ? points.size(0) : 0, points.size(1)})};
  }
};

// The points of rows, checked and packed.
struct Listed {
  const Given given;
  const Tensor listed; // [B, S]

  Listed(const Tensor &rows, const Tensor &points, const Tensor &listed)
      : given(rows, points), listed(packed(listed, "listed", {rows.size(0), -1}, ScalarType::Long)) {}

  template <typename T> ListedPoints<T> view() const {
    const Tensor &rows = given.rows, &points = given.points;
    return {const_data<T>(rows), const_data<T>(points), const_data<int64_t>(listed),
            rows.size(0),        listed.size(1),        points.size(0),
            rows.size(1)};
  }
};

// Entries sorted by the group that `names`, of any shape, says for each; torch's sort does not wait for the
// device.
struct Sorted {
  Tensor groups, order;

  explicit Sorted(const Tensor &names) {
    using torch::stable::detail::from;
    const Tensor flat = torch::stable::view(names, {names.numel()});
    std::array<StableIValue, 4> stack{from(flat), from(std::optional<bool>(true)), from(int64_t(0)),
                                      from(false)};
    FASTDML_CHECK_TORCH(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
    groups = torch::stable::detail::to<Tensor>(stack[0]);
    order = torch::stable::detail::to<Tensor>(stack[1]);
  }

  SortedGroups view(int64_t count) const {
    return {const_data<int64_t>(groups), const_data<int64_t>(order), order.numel(), count};
  }
};

} // namespace

Tensor nearest_others_op(Tensor rows, Tensor points, Tensor labels, Tensor point_labels, int64_t k,
                         ScalarType) {
  const Given given(rows, points);
  STD_TORCH_CHECK(k > 0, "k must be at least 1, got ", k);
  const Tensor names = given.vector_of_rows(labels, "labels", ScalarType::Long),
               point_names = packed(point_labels, "point_labels", {points.size(0)}, ScalarType::Long),
               found = torch::stable::new_empty(rows, {rows.size(0), k}, ScalarType::Long);
  return given.run<Tensor>([&](auto zero) {
    nearest_others<decltype(zero)>(given.call(), const_data<int64_t>(names), const_data<int64_t>(point_names),
                                   found);
    return found;
  });
}

std::tuple<Tensor, Tensor> hinge_sums_op(Tensor rows, Tensor points, Tensor own, Tensor limits, ScalarType) {
  const Given given(rows, points);
  const Tensor left_out = given.vector_of_rows(own, "own", ScalarType::Long),
               bounds = given.vector_of_rows(limits, "limits", rows.scalar_type()),
               sums = empty(rows, {rows.size(0)}), counts = empty(rows, {rows.size(0)});
  return given.run<std::tuple<Tensor, Tensor>>([&](auto zero) -> std::tuple<Tensor, Tensor> {
    using T = decltype(zero);
    hinge_sums<T>(given.call(), {const_data<int64_t>(left_out), const_data<T>(bounds)}, data<T>(sums),
                  data<T>(counts));
    return {sums, counts};
  });
}

Gradients hinge_gradients_op(Tensor grad, Tensor rows, Tensor points, Tensor own, Tensor limits, ScalarType,
                             bool need_rows, bool need_points) {
  const Given given(rows, points);
  const Tensor left_out = given.vector_of_rows(own, "own", ScalarType::Long),
               bounds = given.vector_of_rows(limits, "limits", rows.scalar_type()),
               upstream = given.vector_of_rows(grad, "grad", rows.scalar_type());
  return given.run<Gradients>([&](auto zero) {
    using T = decltype(zero);
    const Gradients gradients = given.new_gradients(need_rows, need_points);
    const auto &[of_rows, of_points] = gradients;
    hinge_gradients<T>(given.call(), {const_data<int64_t>(left_out), const_data<T>(bounds)},
                       const_data<T>(upstream), of_rows, of_points);
    return gradients;
  });
}

Tensor listed_distances_op(Tensor rows, Tensor points, Tensor listed) {
  const Listed names(rows, points, listed);
  const Tensor distances = empty(rows, {rows.size(0), listed.size(1)});
  return names.given.run<Tensor>([&](auto zero) {
    using T = decltype(zero);
    measure_listed(names.view<T>(), data<T>(distances), names.given.scope.stream());
    return distances;
  });
}

Gradients listed_gradients_op(Tensor grad, Tensor rows, Tensor points, Tensor listed, Tensor distances,
                              bool need_rows, bool need_points) {
  const Listed names(rows, points, listed);
  const int64_t samples = rows.size(0), length = listed.size(1);
  const Tensor upstream = packed(grad, "grad", {samples, length}, rows.scalar_type()),
               found = packed(distances, "distances", {samples, length}, rows.scalar_type());
  return names.given.run<Gradients>([&](auto zero) {
    using T = decltype(zero);
    const Stream stream = names.given.scope.stream();
    const Gradients gradients = names.given.new_gradients(need_rows, need_points);
    const auto &[of_rows, of_points] = gradients;
    if (need_rows)
      gather_row_gradients(names.view<T>(), const_data<T>(upstream), const_data<T>(found), data<T>(of_rows),
                           stream);
    if (need_points)
      gather_point_gradients(names.view<T>(), const_data<T>(upstream), const_data<T>(found),
                             Sorted(names.listed).view(points.size(0)), data<T>(of_points), stream);
    return gradients;
  });
}

Tensor class_sums_op(Tensor rows, Tensor labels, int64_t classes, ScalarType dtype) {
  STD_TORCH_CHECK(classes >= 0, "classes must be at least 0, got ", classes);
  const DeviceScope scope(rows);
  const Tensor summed = torch::stable::contiguous(rows),
               names = packed(labels, "labels", {rows.size(0)}, ScalarType::Long);
  const Tensor sums = torch::stable::new_empty(rows, {classes, rows.size(1)}, dtype);
  const auto sum = [&](auto zero, auto of_sums) {
    using T = decltype(zero);
    const Sorted sorted(names);
    sum_groups(const_data<T>(summed), rows.size(1), sorted.view(classes), data<decltype(of_sums)>(sums),
               scope.stream());
    return sums;
  };
  return for_dtype<Tensor>(rows.scalar_type(), "rows", [&](auto zero) {
    return for_dtype<Tensor>(dtype, "dtype", [&](auto of_sums) { return sum(zero, of_sums); });
  });
}

} // namespace fastdml::cuda
