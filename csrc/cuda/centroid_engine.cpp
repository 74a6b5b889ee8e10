#include "cuda/centroid_engine.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cuda/centroid_kernels.h"
#include "cuda/matrix_product.h"
#include "cuda/threshold_kernels.h" // shorten

#ifndef FASTDML_CUDA_CENTROID_PRODUCTS // tests make the blocks small
#define FASTDML_CUDA_CENTROID_PRODUCTS (1 << 23)
#define FASTDML_CUDA_CENTROID_ROWS 2048
#endif

namespace fastdml::cuda {
namespace {

using torch::stable::Tensor;

// 32 MB of fp32 products stay in the L2 of a data-centre GPU; few rows meet many points at once.
constexpr int64_t most_products = FASTDML_CUDA_CENTROID_PRODUCTS;
constexpr int64_t most_rows = FASTDML_CUDA_CENTROID_ROWS;
constexpr int64_t stride_alignment = 64; // elements

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

Tensor part(Tensor all, int64_t dim, int64_t first, int64_t count) {
  return torch::stable::narrow(all, dim, first, count);
}

Tensor transposed(const Tensor &matrix) { return torch::stable::transpose(matrix, 0, 1); }

template <typename T> T *data(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }
template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

// The blocks of one call, in memory that is reused.
class CentroidSweep {
public:
  explicit CentroidSweep(const CentroidCall &call)
      : call_(call), rows_(std::min(call.rows.size(0), most_rows)),
        columns_(std::clamp<int64_t>(most_products / rows_, 1, call.points.size(0))),
        stride_(round_up(columns_, stride_alignment)),
        memory_(torch::stable::new_empty(call.rows, {rows_, stride_})) {}

  // Calls visit(block, its products as a matrix) for every block, all points of some rows after the other, in
  // stream order.
  template <typename T, typename Visit> void for_each_block(const Visit &visit) const {
    const int64_t samples = call_.rows.size(0), count = call_.points.size(0);
    for (int64_t row = 0; row < samples; row += rows_)
      for (int64_t column = 0; column < count; column += columns_) {
        const int64_t rows = std::min(rows_, samples - row), columns = std::min(columns_, count - column);
        const Tensor products = part(part(memory_, 0, 0, rows), 1, 0, columns);
        product(products, part(call_.rows, 0, row, rows), transposed(part(call_.points, 0, column, columns)));
        visit(CentroidBlock<T>{data<T>(memory_), stride_, row, column, static_cast<int>(rows),
                               static_cast<int>(columns)},
              products);
      }
  }

  // Of a block at most.
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

private:
  const CentroidCall &call_;
  const int64_t rows_, columns_, stride_;
  const Tensor memory_; // [rows, stride]
};

// [count]
template <typename T> Tensor squares_of(const Tensor &rows, Stream stream) {
  const Tensor squares = torch::stable::new_empty(rows, {rows.size(0)});
  square_lengths(const_data<T>(rows), rows.size(0), rows.size(1), data<T>(squares), stream);
  return squares;
}

// sum = a b for the first block that adds to it, else sum += a b: so nobody clears it before.
void accumulate(const Tensor &sum, const Tensor &a, const Tensor &b, bool first) {
  if (first)
    product(sum, a, b);
  else
    add_product(sum, a, b);
}

// The gradients of one side, weights [some of this side, some of the other] times the other side less this.
template <typename T> class PullGradient {
public:
  PullGradient(const Tensor &grads, const Tensor &own, const Tensor &others, const Tensor &ones)
      : grads_(grads), own_(own), others_(others), ones_(ones),
        sums_(torch::stable::new_empty(grads, {grads.size(0), 1})) {}

  // `at` and `other` are where the weights begin on either side.
  void add(const Tensor &weights, int64_t at, int64_t other) const {
    if (grads_.numel() == 0)
      return;
    const int64_t number = weights.size(0), length = weights.size(1);
    accumulate(part(grads_, 0, at, number), weights, part(others_, 0, other, length), other == 0);
    accumulate(part(sums_, 0, at, number), weights, part(ones_, 0, 0, length), other == 0);
  }

  void finish(Stream stream) const {
    shorten(data<T>(grads_), const_data<T>(own_), const_data<T>(sums_), grads_.size(0), own_.size(1), stream);
  }

private:
  const Tensor &grads_, &own_, &others_, &ones_;
  const Tensor sums_; // of the weights, [this side, 1]
};

} // namespace

template <typename T>
void nearest_others(const CentroidCall &call, const int64_t *labels, const int64_t *point_labels,
                    const Tensor &found) {
  const CentroidSweep sweep(call);
  const int64_t k = found.size(1);
  const Tensor squares = squares_of<T>(call.points, call.stream);
  const Tensor keys = torch::stable::new_empty(call.rows, {sweep.rows(), k});
  const NeighbourProblem<T> problem{const_data<T>(squares), labels, point_labels, k};
  sweep.for_each_block<T>([&](const CentroidBlock<T> &block, const Tensor &) {
    gather_nearest(problem, block, data<T>(keys), data<int64_t>(found), call.stream);
  });
}

template <typename T> void hinge_sums(const CentroidCall &call, const Hinges<T> &hinges, T *sums, T *counts) {
  const CentroidSweep sweep(call);
  const Tensor squares = squares_of<T>(call.rows, call.stream),
               point_squares = squares_of<T>(call.points, call.stream);
  const HingeProblem<T> problem{const_data<T>(squares), const_data<T>(point_squares), hinges.own,
                                hinges.limits};
  sweep.for_each_block<T>([&](const CentroidBlock<T> &block, const Tensor &) {
    gather_hinges(problem, block, sums, counts, call.stream);
  });
}

template <typename T>
void hinge_gradients(const CentroidCall &call, const Hinges<T> &hinges, const T *grad,
                     const Tensor &grad_rows, const Tensor &grad_points) {
  const CentroidSweep sweep(call);
  const Tensor squares = squares_of<T>(call.rows, call.stream),
               point_squares = squares_of<T>(call.points, call.stream);
  const HingeProblem<T> problem{const_data<T>(squares), const_data<T>(point_squares), hinges.own,
                                hinges.limits};
  const Tensor ones = torch::stable::new_empty(call.rows, {std::max(sweep.rows(), sweep.columns()), 1});
  torch::stable::fill_(ones, 1.0);
  const PullGradient<T> of_rows(grad_rows, call.rows, call.points, ones),
      of_points(grad_points, call.points, call.rows, ones);
  sweep.for_each_block<T>([&](const CentroidBlock<T> &block, const Tensor &weights) {
    weigh_hinges(problem, block, grad, call.stream);
    of_rows.add(weights, block.row, block.column);
    of_points.add(transposed(weights), block.column, block.row);
  });
  of_rows.finish(call.stream);
  of_points.finish(call.stream);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void nearest_others<T>(const CentroidCall &, const int64_t *, const int64_t *, const Tensor &);   \
  template void hinge_sums<T>(const CentroidCall &, const Hinges<T> &, T *, T *);                            \
  template void hinge_gradients<T>(const CentroidCall &, const Hinges<T> &, const T *, const Tensor &,       \
                                   const Tensor &);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
