// The cpu operators of the threshold statistics: tensors in, tensors out.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/pair_layout.h"
#include "cpu/threshold_engine.h"

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor empty(std::vector<int64_t> shape, ScalarType dtype) { return torch::stable::empty(shape, dtype); }

template <typename F> void for_each(int64_t count, const F &f) {
  torch::stable::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      f(k);
  });
}

// Anchors or candidates as they were given.
struct Given {
  Tensor rows, squares, labels;

  Given(const Tensor &rows, const Tensor &squares, const Tensor &labels)
      : rows(torch::stable::contiguous(rows)), squares(torch::stable::contiguous(squares)),
        labels(torch::stable::contiguous(labels)) {}
};

// One side sorted by label.
template <typename T> struct Sorted {
  std::vector<int64_t> order;
  std::vector<T> rows, squares;
  std::vector<int32_t> start, end;

  explicit Sorted(const Given &given)
      : order(given.rows.size(0)), rows(given.rows.numel()), squares(order.size()), start(order.size()),
        end(order.size()) {
    const int64_t count = static_cast<int64_t>(order.size()), width = given.rows.size(1);
    const T *row = given.rows.const_data_ptr<T>(), *square = given.squares.const_data_ptr<T>();
    sort_by_label(given.labels.const_data_ptr<int64_t>(), count, order.data());
    for_each(count, [&](int64_t k) {
      std::copy_n(row + order[k] * width, width, rows.data() + k * width);
      squares[k] = square[order[k]];
    });
  }

  ThresholdSide<T> side() const {
    return {static_cast<int64_t>(order.size()), rows.data(), squares.data(), start.data(), end.data()};
  }
};

// A problem with all that it borrows, and where each of its thresholds stands in the input.
template <typename T> class Laid {
public:
  Laid(const Given &anchors, const std::optional<Given> &candidates, const std::optional<Tensor> &own,
       const Tensor &thresholds, const Tensor &offsets, int64_t closeness)
      : anchors_(anchors), places_(thresholds.numel()), ascending_(places_.size()),
        offset_(anchors_.order.size() + 1, 0) {
    if (candidates)
      candidates_.emplace(*candidates);
    const Sorted<T> &others = candidates_ ? *candidates_ : anchors_;
    const int64_t count = static_cast<int64_t>(anchors_.order.size()),
                  other_count = static_cast<int64_t>(others.order.size());
    positive_spans(anchors.labels.const_data_ptr<int64_t>(), anchors_.order.data(), count,
                   (candidates ? *candidates : anchors).labels.template const_data_ptr<int64_t>(),
                   others.order.data(), other_count, anchors_.start.data(), anchors_.end.data());
    if (candidates && own)
      find_own(*own, others.order);
    sort_thresholds(torch::stable::contiguous(thresholds), torch::stable::contiguous(offsets));
    problem_ = {anchors.rows.size(1),
                closeness % 4,
                closeness > 4,
                !candidates,
                anchors_.side(),
                others.side(),
                own_.empty() ? nullptr : own_.data(),
                offset_.data(),
                ascending_.data()};
  }
  Laid(const Laid &) = delete;
  Laid &operator=(const Laid &) = delete;

  const ThresholdProblem<T> &problem() const { return problem_; }
  const std::vector<int64_t> &places() const { return places_; }

  // Gradients of the rows in the order of the input, from those of the sorted rows.
  Tensor anchors_in_order(const std::vector<T> &grads) const { return in_order(anchors_, grads); }
  Tensor candidates_in_order(const std::vector<T> &grads) const { return in_order(*candidates_, grads); }

private:
  void find_own(const Tensor &own, const std::vector<int64_t> &other_order) {
    const Tensor given = torch::stable::contiguous(own);
    const int64_t *candidate = given.const_data_ptr<int64_t>();
    std::vector<int32_t> sorted_at(other_order.size());
    for (size_t k = 0; k < other_order.size(); ++k)
      sorted_at[other_order[k]] = static_cast<int32_t>(k);
    own_.resize(anchors_.order.size());
    for (size_t k = 0; k < own_.size(); ++k) {
      const int64_t is = candidate[anchors_.order[k]];
      own_[k] = is < 0 ? -1 : sorted_at[is];
    }
  }

  void sort_thresholds(const Tensor &thresholds, const Tensor &offsets) {
    const T *threshold = thresholds.const_data_ptr<T>();
    const int64_t *given = offsets.const_data_ptr<int64_t>();
    const int64_t count = static_cast<int64_t>(anchors_.order.size());
    for (int64_t k = 0; k < count; ++k)
      offset_[k + 1] = offset_[k] + given[anchors_.order[k] + 1] - given[anchors_.order[k]];
    for_each(count, [&](int64_t k) {
      int64_t *place = places_.data() + offset_[k];
      const int64_t number = offset_[k + 1] - offset_[k];
      for (int64_t i = 0; i < number; ++i)
        place[i] = given[anchors_.order[k]] + i;
      std::sort(place, place + number, [&](int64_t a, int64_t b) {
        return std::pair(threshold[a], a) < std::pair(threshold[b], b);
      });
      for (int64_t i = 0; i < number; ++i)
        ascending_[offset_[k] + i] = threshold[place[i]];
    });
  }

  static Tensor in_order(const Sorted<T> &side, const std::vector<T> &grads) {
    const int64_t count = static_cast<int64_t>(side.order.size()),
                  width = count ? static_cast<int64_t>(side.rows.size()) / count : 0;
    Tensor found = empty({count, width}, std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float);
    T *out = found.mutable_data_ptr<T>();
    for_each(count,
             [&](int64_t k) { std::copy_n(grads.data() + k * width, width, out + side.order[k] * width); });
    return found;
  }

  Sorted<T> anchors_;
  std::optional<Sorted<T>> candidates_;
  std::vector<int32_t> own_;
  std::vector<int64_t> places_;
  std::vector<T> ascending_;
  std::vector<int64_t> offset_;
  ThresholdProblem<T> problem_{};
};

std::optional<Given> candidates_of(const std::optional<Tensor> &refs,
                                   const std::optional<Tensor> &ref_squares,
                                   const std::optional<Tensor> &ref_labels) {
  return refs ? std::optional<Given>(Given(*refs, *ref_squares, *ref_labels)) : std::nullopt;
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Given &anchors, const std::optional<Given> &candidates,
                                   const std::optional<Tensor> &own, const Tensor &thresholds,
                                   const Tensor &offsets, int64_t closeness) {
  const Laid<T> laid(anchors, candidates, own, thresholds, offsets, closeness);
  const std::vector<int64_t> &places = laid.places();
  const int64_t number = static_cast<int64_t>(places.size());
  std::vector<double> found_counts(number, 0.0), found_sums(number, 0.0);
  threshold_forward<T>(laid.problem(), found_counts.data(), found_sums.data());
  Tensor counts = empty({number}, ScalarType::Double), sums = empty({number}, ScalarType::Double);
  double *count = counts.mutable_data_ptr<double>(), *sum = sums.mutable_data_ptr<double>();
  for (int64_t k = 0; k < number; ++k) {
    count[places[k]] = found_counts[k];
    sum[places[k]] = found_sums[k];
  }
  return {counts, sums};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(const Tensor &grad_sums, const Given &anchors,
                                    const std::optional<Given> &candidates, const std::optional<Tensor> &own,
                                    const Tensor &thresholds, const Tensor &offsets, int64_t closeness,
                                    bool need_rows, bool need_refs) {
  const Laid<T> laid(anchors, candidates, own, thresholds, offsets, closeness);
  const std::vector<int64_t> &places = laid.places();
  const Tensor given = torch::stable::contiguous(grad_sums);
  const double *grad = given.const_data_ptr<double>();
  std::vector<double> ascending(places.size());
  for (size_t k = 0; k < places.size(); ++k)
    ascending[k] = grad[places[k]];
  need_refs = need_refs && candidates;
  std::vector<T> anchor_grads(need_rows ? anchors.rows.numel() : 0, T(0)),
      candidate_grads(need_refs ? candidates->rows.numel() : 0, T(0));
  threshold_backward<T>(laid.problem(), ascending.data(), need_rows ? anchor_grads.data() : nullptr,
                        need_refs ? candidate_grads.data() : nullptr);
  const Tensor nothing = empty({0, anchors.rows.size(1)}, anchors.rows.scalar_type());
  return {need_rows ? laid.anchors_in_order(anchor_grads) : nothing,
          need_refs ? laid.candidates_in_order(candidate_grads)
                    : empty({0, anchors.rows.size(1)}, anchors.rows.scalar_type())};
}

// fastdml/engines/threshold_ops.py says what each argument is.
std::tuple<Tensor, Tensor> threshold_forward_cpu(Tensor rows, Tensor squares, Tensor labels,
                                                 std::optional<Tensor> refs,
                                                 std::optional<Tensor> ref_squares,
                                                 std::optional<Tensor> ref_labels, std::optional<Tensor> own,
                                                 Tensor thresholds, Tensor offsets, int64_t closeness) {
  const auto run = rows.scalar_type() == ScalarType::Double ? forward<double> : forward<float>;
  return run(Given(rows, squares, labels), candidates_of(refs, ref_squares, ref_labels), own, thresholds,
             offsets, closeness);
}

std::tuple<Tensor, Tensor> threshold_backward_cpu(Tensor grad_sums, Tensor rows, Tensor squares,
                                                  Tensor labels, std::optional<Tensor> refs,
                                                  std::optional<Tensor> ref_squares,
                                                  std::optional<Tensor> ref_labels, std::optional<Tensor> own,
                                                  Tensor thresholds, Tensor offsets, int64_t closeness,
                                                  bool need_rows, bool need_refs) {
  const auto run = rows.scalar_type() == ScalarType::Double ? backward<double> : backward<float>;
  return run(grad_sums, Given(rows, squares, labels), candidates_of(refs, ref_squares, ref_labels), own,
             thresholds, offsets, closeness, need_rows, need_refs);
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) {
  m.impl("threshold_forward_cpu", TORCH_BOX(&threshold_forward_cpu));
  m.impl("threshold_backward_cpu", TORCH_BOX(&threshold_backward_cpu));
}

} // namespace fastdml
