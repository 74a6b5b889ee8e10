#include "cuda/threshold_engine.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cuda/matrix_product.h"

#ifndef FASTDML_CUDA_THRESHOLD_PAIRS // tests make the blocks small
#define FASTDML_CUDA_THRESHOLD_PAIRS (1 << 22)
#endif

namespace fastdml::cuda {
namespace {

using torch::stable::Tensor;

// 16 MB of fp32 products stay in the L2 of a data-centre GPU.
constexpr int64_t largest_pairs = FASTDML_CUDA_THRESHOLD_PAIRS;
constexpr int64_t row_alignment = 16, stride_alignment = 64; // of a block, in rows and in elements

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

int64_t rows_of_a_block(int64_t anchors, int64_t candidates) {
  const int64_t fitting = largest_pairs / candidates / row_alignment * row_alignment;
  return std::min(anchors, std::max(row_alignment, fitting));
}

Tensor part(Tensor all, int64_t dim, int64_t first, int64_t count) {
  return torch::stable::narrow(all, dim, first, count);
}

Tensor transposed(const Tensor &matrix) { return torch::stable::transpose(matrix, 0, 1); }

template <typename T> T *data(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }
template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

// Calls visit(block, its products as a matrix [rows, M]) for every block of anchors, in stream order.
template <typename T, typename Visit>
void for_each_block_of_products(const ThresholdCall<T> &call, const Visit &visit) {
  const int64_t anchors = call.problem.anchors.count, candidates = call.problem.candidates.count;
  const int64_t most = rows_of_a_block(anchors, candidates), stride = round_up(candidates, stride_alignment);
  const Tensor memory = torch::stable::new_empty(call.anchors, {most, stride});
  const Tensor columns = transposed(call.candidates);
  for (int64_t row = 0; row < anchors; row += most) {
    const int64_t rows = std::min(most, anchors - row);
    const Tensor products = part(part(memory, 0, 0, rows), 1, 0, candidates);
    product(products, part(call.anchors, 0, row, rows), columns);
    visit(ThresholdBlock<T>{data<T>(memory), stride, row, rows}, products);
  }
}

// What the lengths of rows add to their gradients, where they move the closeness: half as much as the inner
// product does, and against it.
template <typename T> class LengthGradient {
public:
  // Of `rows` [count, D], to be added to `grads` [count, D] or, empty, to nothing.
  LengthGradient(bool lengths_move, const Tensor &grads, const Tensor &rows)
      : grads_(grads), rows_(rows),
        sums_(torch::stable::new_zeros(rows, {lengths_move ? grads.size(0) : 0, 1})) {}

  // weights [number, others] of the rows from `first`; ones [others or more, 1].
  void add(int64_t first, const Tensor &weights, const Tensor &ones) const {
    if (sums_.numel() > 0)
      add_product(part(sums_, 0, first, weights.size(0)), weights, part(ones, 0, 0, weights.size(1)));
  }

  void finish(Stream stream) const {
    shorten(data<T>(grads_), const_data<T>(rows_), const_data<T>(sums_), sums_.numel(), rows_.size(1),
            stream);
  }

private:
  const Tensor &grads_, &rows_;
  const Tensor sums_; // of the weights, [count, 1]
};

} // namespace

template <typename T> void threshold_forward(const ThresholdCall<T> &call, double *counts, double *sums) {
  for_each_block_of_products(call, [&](const ThresholdBlock<T> &block, const Tensor &) {
    gather_beyond(call.problem, block, counts, sums, call.stream);
  });
}

template <typename T>
void threshold_backward(const ThresholdCall<T> &call, const double *grad_sums, const Tensor &grad_anchors,
                        const Tensor &grad_candidates) {
  const Tensor &other_grads = call.self ? grad_anchors : grad_candidates;
  const LengthGradient<T> of_anchors(call.lengths_move, grad_anchors, call.anchors),
      of_candidates(call.lengths_move, other_grads, call.candidates);
  const int64_t longest = std::max(call.problem.anchors.count, call.problem.candidates.count);
  const Tensor ones = torch::stable::new_empty(call.anchors, {call.lengths_move ? longest : 0, 1});
  torch::stable::fill_(ones, 1.0);
  for_each_block_of_products(call, [&](const ThresholdBlock<T> &block, const Tensor &weights) {
    weigh_products(call.problem, block, grad_sums, call.stream);
    if (grad_anchors.numel() > 0)
      add_product(part(grad_anchors, 0, block.row, block.rows), weights, call.candidates);
    if (other_grads.numel() > 0)
      add_product(other_grads, transposed(weights), part(call.anchors, 0, block.row, block.rows));
    of_anchors.add(block.row, weights, ones);
    of_candidates.add(0, transposed(weights), ones);
  });
  of_anchors.finish(call.stream);
  of_candidates.finish(call.stream);
}

#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  template void threshold_forward<T>(const ThresholdCall<T> &, double *, double *);                          \
  template void threshold_backward<T>(const ThresholdCall<T> &, const double *, const Tensor &,              \
                                      const Tensor &);
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
