// The cpu operators of the centroid engine: tensors in, tensors out. fastdml/engines/centroid_ops.py
// documents the arguments.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "cpu/centroid_engine.h"

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Pair = std::tuple<Tensor, Tensor>;

Tensor empty(std::vector<int64_t> shape, ScalarType dtype) { return torch::stable::empty(shape, dtype); }

template <typename T> Tensor zeros(std::vector<int64_t> shape, ScalarType dtype) {
  Tensor found = empty(std::move(shape), dtype);
  std::fill_n(found.mutable_data_ptr<T>(), found.numel(), T(0));
  return found;
}

// Rows and points, contiguous, with the problem that borrows them.
template <typename T> class Laid {
public:
  Laid(const Tensor &rows, const Tensor &points)
      : rows_(torch::stable::contiguous(rows)), points_(torch::stable::contiguous(points)) {
    STD_TORCH_CHECK(rows.numel() > 0 && points.numel() > 0, "rows and points must not be empty");
    STD_TORCH_CHECK(points.scalar_type() == rows.scalar_type() && points.size(1) == rows.size(1),
                    "points must have the dtype and the width of rows");
    STD_TORCH_CHECK(points.size(0) <= std::numeric_limits<int32_t>::max(), "points must be less than 2^31");
    problem_ = {rows.size(0), points.size(0), rows.size(1), rows_.const_data_ptr<T>(),
                points_.const_data_ptr<T>()};
  }
  Laid(const Laid &) = delete;
  Laid &operator=(const Laid &) = delete;

  const CentroidProblem<T> &problem() const { return problem_; }

  Pair gradients(bool need_rows, bool need_points) const {
    const ScalarType dtype = rows_.scalar_type();
    return {zeros<T>({need_rows ? problem_.rows : 0, problem_.width}, dtype),
            zeros<T>({need_points ? problem_.points : 0, problem_.width}, dtype)};
  }

private:
  Tensor rows_, points_;
  CentroidProblem<T> problem_{};
};

template <typename T> T *data_if(Tensor &tensor, bool needed) {
  return needed ? tensor.mutable_data_ptr<T>() : nullptr;
}

void check_listed(const Tensor &listed, int64_t points) {
  const int64_t *index = listed.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < listed.numel(); ++e)
    STD_TORCH_CHECK(index[e] < points, "listed must be below ", points, ", the number of points, got ",
                    index[e]);
}

template <typename T>
Tensor nearest(const Tensor &rows, const Tensor &points, const Tensor &labels, const Tensor &point_labels,
               int64_t k) {
  const Laid<T> laid(rows, points);
  STD_TORCH_CHECK(k >= 1, "k must be at least 1, got ", k);
  const Tensor label = torch::stable::contiguous(labels), of_points = torch::stable::contiguous(point_labels);
  Tensor found = empty({rows.size(0), k}, ScalarType::Long);
  nearest_others(laid.problem(), label.const_data_ptr<int64_t>(), of_points.const_data_ptr<int64_t>(), k,
                 found.mutable_data_ptr<int64_t>());
  return found;
}

template <typename T>
Pair hinge(const Tensor &rows, const Tensor &points, const Tensor &own, const Tensor &limits) {
  const Laid<T> laid(rows, points);
  const Tensor index = torch::stable::contiguous(own), limit = torch::stable::contiguous(limits);
  Tensor sums = empty({rows.size(0)}, rows.scalar_type()), counts = empty({rows.size(0)}, rows.scalar_type());
  hinge_sums(laid.problem(), index.const_data_ptr<int64_t>(), limit.const_data_ptr<T>(),
             sums.mutable_data_ptr<T>(), counts.mutable_data_ptr<T>());
  return {sums, counts};
}

template <typename T>
Pair hinge_back(const Tensor &grad, const Tensor &rows, const Tensor &points, const Tensor &own,
                const Tensor &limits, bool need_rows, bool need_points) {
  const Laid<T> laid(rows, points);
  const Tensor given = torch::stable::contiguous(grad), index = torch::stable::contiguous(own),
               limit = torch::stable::contiguous(limits);
  auto [grad_rows, grad_points] = laid.gradients(need_rows, need_points);
  hinge_gradients(laid.problem(), given.const_data_ptr<T>(), index.const_data_ptr<int64_t>(),
                  limit.const_data_ptr<T>(), data_if<T>(grad_rows, need_rows),
                  data_if<T>(grad_points, need_points));
  return {grad_rows, grad_points};
}

template <typename T> Tensor listed(const Tensor &rows, const Tensor &points, const Tensor &indices) {
  const Laid<T> laid(rows, points);
  const Tensor index = torch::stable::contiguous(indices);
  check_listed(index, points.size(0));
  Tensor found = empty({index.size(0), index.size(1)}, rows.scalar_type());
  listed_distances(laid.problem(), index.const_data_ptr<int64_t>(), index.size(1),
                   found.mutable_data_ptr<T>());
  return found;
}

template <typename T>
Pair listed_back(const Tensor &grad, const Tensor &rows, const Tensor &points, const Tensor &indices,
                 const Tensor &distances, bool need_rows, bool need_points) {
  const Laid<T> laid(rows, points);
  const Tensor given = torch::stable::contiguous(grad), index = torch::stable::contiguous(indices),
               found = torch::stable::contiguous(distances);
  check_listed(index, points.size(0));
  auto [grad_rows, grad_points] = laid.gradients(need_rows, need_points);
  listed_gradients(laid.problem(), given.const_data_ptr<T>(), index.const_data_ptr<int64_t>(), index.size(1),
                   found.const_data_ptr<T>(), data_if<T>(grad_rows, need_rows),
                   data_if<T>(grad_points, need_points));
  return {grad_rows, grad_points};
}

template <typename T>
Tensor sums(const Tensor &rows, const Tensor &labels, int64_t classes, ScalarType dtype) {
  const Tensor from = torch::stable::contiguous(rows), label = torch::stable::contiguous(labels);
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "dtype must be float32 or float64");
  Tensor found = empty({classes, rows.size(1)}, dtype);
  const auto run = [&](auto *out) {
    class_sums(from.const_data_ptr<T>(), rows.size(0), rows.size(1), label.const_data_ptr<int64_t>(), classes,
               out);
  };
  if (dtype == ScalarType::Double)
    run(found.mutable_data_ptr<double>());
  else
    run(found.mutable_data_ptr<float>());
  return found;
}

bool is_double(const Tensor &tensor) { return tensor.scalar_type() == ScalarType::Double; }

Tensor nearest_others_cpu(Tensor rows, Tensor points, Tensor labels, Tensor point_labels, int64_t k,
                          ScalarType /*product*/) {
  return (is_double(rows) ? nearest<double> : nearest<float>)(rows, points, labels, point_labels, k);
}

Pair hinge_sums_cpu(Tensor rows, Tensor points, Tensor own, Tensor limits, ScalarType /*product*/) {
  return (is_double(rows) ? hinge<double> : hinge<float>)(rows, points, own, limits);
}

Pair hinge_gradients_cpu(Tensor grad, Tensor rows, Tensor points, Tensor own, Tensor limits,
                         ScalarType /*product*/, bool need_rows, bool need_points) {
  return (is_double(rows) ? hinge_back<double> : hinge_back<float>)(grad, rows, points, own, limits,
                                                                    need_rows, need_points);
}

Tensor listed_distances_cpu(Tensor rows, Tensor points, Tensor indices) {
  return (is_double(rows) ? listed<double> : listed<float>)(rows, points, indices);
}

Pair listed_gradients_cpu(Tensor grad, Tensor rows, Tensor points, Tensor indices, Tensor distances,
                          bool need_rows, bool need_points) {
  return (is_double(rows) ? listed_back<double> : listed_back<float>)(grad, rows, points, indices, distances,
                                                                      need_rows, need_points);
}

Tensor class_sums_cpu(Tensor rows, Tensor labels, int64_t classes, ScalarType dtype) {
  return (is_double(rows) ? sums<double> : sums<float>)(rows, labels, classes, dtype);
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) {
  m.impl("nearest_others_cpu", TORCH_BOX(&nearest_others_cpu));
  m.impl("hinge_sums_cpu", TORCH_BOX(&hinge_sums_cpu));
  m.impl("hinge_gradients_cpu", TORCH_BOX(&hinge_gradients_cpu));
  m.impl("listed_distances_cpu", TORCH_BOX(&listed_distances_cpu));
  m.impl("listed_gradients_cpu", TORCH_BOX(&listed_gradients_cpu));
  m.impl("class_sums_cpu", TORCH_BOX(&class_sums_cpu));
}

} // namespace fastdml
