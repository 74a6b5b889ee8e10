#include "cuda/pair_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <utility>

#include "cuda/half_weights.h"
#include "cuda/matrix_product.h"
#include "cuda/pair_anchors.h"
#include "cuda/pair_rows.h"
#include "torch_check.h"

#ifndef FASTDML_CUDA_BLOCK_ROWS // tests make the blocks small
#define FASTDML_CUDA_BLOCK_ROWS 2048
#define FASTDML_CUDA_BLOCK_COLUMNS 4096
#endif

namespace fastdml::cuda {
namespace {

using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// 32 MB of fp32 products and 16 MB of 16-bit weights: most of them stay in the L2 of a data-centre GPU.
constexpr int64_t largest_rows = FASTDML_CUDA_BLOCK_ROWS;
constexpr int64_t largest_columns = FASTDML_CUDA_BLOCK_COLUMNS;
constexpr int64_t stride_alignment = 64; // elements

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

template <typename T> constexpr ScalarType dtype_of = ScalarType::Float;
template <> constexpr ScalarType dtype_of<double> = ScalarType::Double;

// A matrix inside the memory of another tensor, `offset` elements from its start.
Tensor matrix(const Tensor &memory, int64_t offset, int64_t rows, int64_t columns, int64_t row_stride,
              int64_t column_stride = 1) {
  const int64_t sizes[2] = {rows, columns}, strides[2] = {row_stride, column_stride};
  AtenTensorHandle view = nullptr;
  FASTDML_CHECK_TORCH(aoti_torch__reinterpret_tensor(memory.get(), 2, sizes, strides, offset, &view));
  return Tensor(view);
}

Tensor empty_like_device(const Tensor &tensor, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(tensor, shape, dtype);
}

// Where one block of anchors and one block of candidates meet; `mirrored` blocks of self-pairs also stand for
// their transpose, which is not visited.
struct Block {
  int64_t row, rows, column, columns;
  bool mirrored;
};

// Visits every pair of an anchor and a candidate once: for self-pairs a square on the diagonal, and what is
// right of it; for others everything.
template <typename Visit>
void for_each_block(int64_t anchors, int64_t candidates, bool self, const Visit &visit) {
  for (int64_t row = 0; row < anchors; row += largest_rows) {
    const int64_t rows = std::min(largest_rows, anchors - row);
    if (self)
      visit(Block{row, rows, row, rows, false});
    for (int64_t column = self ? row + rows : 0; column < candidates; column += largest_columns)
      visit(Block{row, rows, column, std::min(largest_columns, candidates - column), self});
  }
}

// The blocks of one call, and their products in one matrix that is reused.
template <typename Input> class PairSweep {
  using T = Accumulator<Input>;

public:
  explicit PairSweep(const PairCall<Input> &call)
      : call_(call), width_(call.stored.width), rows_(std::min(largest_rows, call.problem.anchors.count)),
        stride_(round_up(std::min(std::max(largest_rows, largest_columns), call.problem.candidates.count),
                         stride_alignment)),
        products_(empty_like_device(call.rows, {rows_, stride_}, dtype_of<T>)) {}

  // Calls visit(block, its products) for every block, in stream order.
  template <typename Visit> void for_each_block_of_products(const Visit &visit) const {
    const PairProblem<T> &problem = call_.problem;
    T *products = static_cast<T *>(products_.mutable_data_ptr());
    for_each_block(problem.anchors.count, problem.candidates.count, problem.self, [&](const Block &block) {
      product(
          matrix(products_, 0, block.rows, block.columns, stride_), anchor_rows(block),
          matrix(call_.rows, (first_candidate() + block.column) * width_, width_, block.columns, 1, width_));
      visit(block, ProductBlock<T>{products, stride_, block.row, block.column, static_cast<int>(block.rows),
                                   static_cast<int>(block.columns)});
    });
  }

  Tensor anchor_rows(const Block &block) const { // [rows, D]
    return matrix(call_.rows, block.row * width_, block.rows, width_, width_);
  }
  Tensor candidate_rows(const Block &block) const { // [columns, D]
    return matrix(call_.rows, (first_candidate() + block.column) * width_, block.columns, width_, width_);
  }

  const Tensor &products() const { return products_; } // [rows, stride]
  int64_t rows() const { return rows_; }
  int64_t stride() const { return stride_; }

private:
  int64_t first_candidate() const { return call_.problem.self ? 0 : call_.problem.anchors.count; }

  const PairCall<Input> &call_;
  const int64_t width_, rows_, stride_;
  const Tensor products_;
};

// The weights of one block after the other, as the matrix products take them. What fp32 and fp64 inputs make
// takes the place of the products; fp16's do so too, then are lifted into a matrix of their own.
template <typename Input> class BlockWeights {
  using T = Accumulator<Input>;
  static constexpr bool in_place = std::is_same_v<Weight<Input>, T>, lifted = std::is_same_v<Input, Half>;

public:
  BlockWeights(const PairCall<Input> &call, const PairSweep<Input> &sweep)
      : call_(call), stride_(sweep.stride()),
        weights_(in_place && !lifted
                     ? sweep.products()
                     : empty_like_device(call.rows, {sweep.rows(), stride_}, call.rows.scalar_type())),
        range_(empty_like_device(call.rows, {lifted ? sweep.rows() + 2 : 0}, dtype_of<T>)) {}

  void compute(const ProductBlock<T> &block, PairRows<T> rows, SumGradients<T> grads) const {
    Weight<Input> *out;
    if constexpr (in_place)
      out = block.products;
    else
      out = static_cast<Weight<Input> *>(weights_.mutable_data_ptr());
    call_.kernels.weights(call_.constants.data(), call_.problem, call_.stored, block, rows, grads, out,
                          call_.stream);
    if constexpr (lifted) {
      float *range = static_cast<float *>(range_.mutable_data_ptr());
      lift_to_half({block.products, stride_, block.rows, block.columns}, range + 2, range,
                   {static_cast<Half *>(weights_.mutable_data_ptr()), stride_, block.rows, block.columns},
                   call_.stream);
    }
  }

  Tensor of_rows(const Block &block) const { return matrix(weights_, 0, block.rows, block.columns, stride_); }
  Tensor of_columns(const Block &block) const { // transposed
    return matrix(weights_, 0, block.columns, block.rows, 1, stride_);
  }
  // What their products are to be multiplied by, on the device; null: 1.
  const T *factor() const { return lifted ? static_cast<const T *>(range_.const_data_ptr()) + 1 : nullptr; }

private:
  const PairCall<Input> &call_;
  const int64_t stride_;
  const Tensor weights_; // [rows, stride]
  const Tensor range_;   // a power of two and its inverse, then scratch
};

// Adds products of weights and rows to gradients in the accumulator dtype. torch has no product that adds
// halves to floats through its stable interface, so that sum takes a pass of its own.
template <typename Input> class GradientSum {
  using T = Accumulator<Input>;

public:
  GradientSum(const PairCall<Input> &call, int64_t largest) : call_(call), width_(call.stored.width) {
    if constexpr (!std::is_same_v<Input, T>)
      part_ = empty_like_device(call.rows, {largest, width_}, dtype_of<T>);
  }

  // sum[row : row + rows] += *factor weights units
  void add(const Tensor &sum, int64_t row, int64_t rows, const Tensor &weights, const Tensor &units,
           const T *factor) const {
    if constexpr (std::is_same_v<Input, T>) {
      add_product(matrix(sum, row * width_, rows, width_, width_), weights, units);
    } else {
      product(matrix(part_, 0, rows, width_, width_), weights, units);
      cuda::add(static_cast<T *>(sum.mutable_data_ptr()) + row * width_,
                static_cast<const T *>(part_.const_data_ptr()), factor, rows * width_, call_.stream);
    }
  }

private:
  const PairCall<Input> &call_;
  const int64_t width_;
  Tensor part_; // [largest, D]
};

// Views of consecutive arrays of one length.
template <typename T> class Arrays {
public:
  Arrays(T *memory, int64_t length) : next_(memory), length_(length) {}
  T *take() { return std::exchange(next_, next_ + length_); }

private:
  T *next_;
  const int64_t length_;
};

} // namespace

template <typename Input>
void pair_forward(const PairCall<Input> &call, const Accumulator<Input> *row,
                  PairRows<Accumulator<Input>> rows, StatisticsOutput<Accumulator<Input>> output) {
  using T = Accumulator<Input>;
  const PairProblem<T> &problem = call.problem;
  const double *constants = call.constants.data();
  const int64_t count = problem.anchors.count;
  const PairSweep<Input> sweep(call);

  const Tensor gathered = empty_like_device(call.rows, {5, count}, dtype_of<T>);
  Arrays<T> all(static_cast<T *>(gathered.mutable_data_ptr()), count);
  const NegativeStatistics<T> negatives{all.take(), all.take(), all.take(), all.take(), all.take()};
  begin_statistics(problem, call.stored, problem.selection.relative || call.kernels.reads_least, row,
                   output.order, rows, negatives, call.stream);

  // Partial statistics of one block: of its rows by column tiles, then of its columns by row tiles.
  const int most_columns = static_cast<int>(sweep.stride()), most_rows = static_cast<int>(sweep.rows());
  const int64_t by_row = static_cast<int64_t>(column_tiles<T>(most_columns)) * most_rows;
  const int64_t by_column = problem.self ? static_cast<int64_t>(row_tiles<T>(most_rows)) * most_columns : 0;
  const Tensor partial = empty_like_device(call.rows, {4 * (by_row + by_column)}, dtype_of<T>);
  T *part = static_cast<T *>(partial.mutable_data_ptr());
  sweep.for_each_block_of_products([&](const Block &block, const ProductBlock<T> &products) {
    const int height = products.rows, breadth = products.columns;
    Arrays<T> row_part(part, by_row), column_part(part + 4 * by_row, by_column);
    const PartialStatistics<T> of_rows{block.row,       height,          column_tiles<T>(breadth),
                                       row_part.take(), row_part.take(), row_part.take(),
                                       row_part.take()};
    const PartialStatistics<T> of_columns{block.column,
                                          breadth,
                                          block.mirrored ? row_tiles<T>(height) : 0,
                                          column_part.take(),
                                          column_part.take(),
                                          column_part.take(),
                                          column_part.take()};
    call.kernels.negative_statistics(constants, problem, products, rows, of_rows, of_columns, call.stream);
    merge_statistics(of_rows, of_columns, negatives, call.stream);
  });

  call.kernels.positive_statistics(constants, problem, call.stored, negatives, rows, output, call.stream);
}

template <typename Input>
void pair_backward(const PairCall<Input> &call, PairRows<Accumulator<Input>> rows,
                   SumGradients<Accumulator<Input>> grads, const Tensor &grad_anchors,
                   const Tensor &grad_candidates) {
  using T = Accumulator<Input>;
  const bool self = call.problem.self;
  const PairSweep<Input> sweep(call);
  const BlockWeights<Input> weights(call, sweep);
  const GradientSum<Input> sum(call, std::max(sweep.rows(), sweep.stride()));
  const bool want_anchors = grad_anchors.numel() > 0, want_candidates = grad_candidates.numel() > 0;
  sweep.for_each_block_of_products([&](const Block &block, const ProductBlock<T> &products) {
    weights.compute(products, rows, grads);
    if (want_anchors)
      sum.add(grad_anchors, block.row, block.rows, weights.of_rows(block), sweep.candidate_rows(block),
              weights.factor());
    if (self ? block.mirrored && want_anchors : want_candidates)
      sum.add(self ? grad_anchors : grad_candidates, block.column, block.columns, weights.of_columns(block),
              sweep.anchor_rows(block), weights.factor());
  });
}

#define FASTDML_FOR_INPUT(Input)                                                                             \
  template void pair_forward<Input>(const PairCall<Input> &, const Accumulator<Input> *,                     \
                                    PairRows<Accumulator<Input>>, StatisticsOutput<Accumulator<Input>>);     \
  template void pair_backward<Input>(const PairCall<Input> &, PairRows<Accumulator<Input>>,                  \
                                     SumGradients<Accumulator<Input>>, const Tensor &, const Tensor &);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
