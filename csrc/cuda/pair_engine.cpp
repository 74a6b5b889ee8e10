#include "cuda/pair_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "cuda/matrix_product.h"
#include "cuda/pair_rows.h"

#ifndef FASTDML_CUDA_BLOCK_ROWS // tests make the blocks small
#define FASTDML_CUDA_BLOCK_ROWS 2048
#define FASTDML_CUDA_BLOCK_COLUMNS 4096
#endif

namespace fastdml::cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// 32 MB of fp32 similarities and 16 MB of half weights: most of them stay in the L2 of a data-centre GPU.
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
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(memory.get(), 2, sizes, strides, offset, &view));
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

template <typename Input> class PairSweep {
  using T = Accumulator<Input>;

public:
  explicit PairSweep(const PairCall<Input> &call)
      : call_(call), kernels_(pair_kernels<Input>(call.rule)), width_(call.problem.width),
        rows_(std::min(largest_rows, call.problem.anchors.count)),
        stride_(round_up(std::min(std::max(largest_rows, largest_columns), call.problem.candidates.count),
                         stride_alignment)),
        similarity_(empty_like_device(call.units, {rows_, stride_}, dtype_of<T>)) {}

  // Calls visit(block, similarities) for every block, in stream order.
  template <typename Visit> void for_each_similarity_block(const Visit &visit) const {
    const PairProblem<Input> &problem = call_.problem;
    const T *similarity = static_cast<const T *>(similarity_.const_data_ptr());
    for_each_block(problem.anchors.count, problem.candidates.count, problem.self, [&](const Block &block) {
      product(
          matrix(similarity_, 0, block.rows, block.columns, stride_), anchor_units(block),
          matrix(call_.units, (first_candidate() + block.column) * width_, width_, block.columns, 1, width_));
      visit(block, SimilarityBlock<T>{similarity, stride_, block.row, block.column,
                                      static_cast<int>(block.rows), static_cast<int>(block.columns)});
    });
  }

  Tensor anchor_units(const Block &block) const { // [rows, D]
    return matrix(call_.units, block.row * width_, block.rows, width_, width_);
  }
  Tensor candidate_units(const Block &block) const { // [columns, D]
    return matrix(call_.units, (first_candidate() + block.column) * width_, block.columns, width_, width_);
  }

  const PairKernels<Input> &kernels() const { return kernels_; }
  int64_t rows() const { return rows_; }
  int64_t stride() const { return stride_; }

private:
  int64_t first_candidate() const { return call_.problem.self ? 0 : call_.problem.anchors.count; }

  const PairCall<Input> &call_;
  const PairKernels<Input> kernels_;
  const int64_t width_, rows_, stride_;
  const Tensor similarity_; // [rows, stride]
};

// Adds products of weights and unit rows to gradients in the accumulator dtype. torch has no product that
// adds halves to floats through its stable interface, so that sum takes a pass of its own.
template <typename Input> class GradientSum {
  using T = Accumulator<Input>;

public:
  GradientSum(const PairCall<Input> &call, int64_t largest) : call_(call), width_(call.problem.width) {
    if constexpr (!std::is_same_v<Input, T>)
      part_ = empty_like_device(call.units, {largest, width_}, dtype_of<T>);
  }

  // sum[row : row + rows] += weights units
  void add(const Tensor &sum, int64_t row, int64_t rows, const Tensor &weights, const Tensor &units) const {
    if constexpr (std::is_same_v<Input, T>) {
      add_product(matrix(sum, row * width_, rows, width_, width_), weights, units);
    } else {
      product(matrix(part_, 0, rows, width_, width_), weights, units);
      cuda::add(static_cast<T *>(sum.mutable_data_ptr()) + row * width_,
                static_cast<const T *>(part_.const_data_ptr()), rows * width_, call_.stream);
    }
  }

private:
  const PairCall<Input> &call_;
  const int64_t width_;
  Tensor part_; // [largest, D]
};

} // namespace

template <typename Input>
void pair_forward(const PairCall<Input> &call, PairRows<Accumulator<Input>> rows,
                  LossOutput<Accumulator<Input>> output) {
  using T = Accumulator<Input>;
  const PairProblem<Input> &problem = call.problem;
  const double *constants = call.constants.data();
  const int64_t count = problem.anchors.count;
  const PairSweep<Input> sweep(call);

  const Tensor gathered = empty_like_device(call.units, {2, count}, dtype_of<T>);
  T *memory = static_cast<T *>(gathered.mutable_data_ptr());
  const NegativeStatistics<T> negatives{memory, memory + count};
  sweep.kernels().negative_thresholds(constants, problem, rows.negative_threshold, negatives, call.stream);

  // Partial statistics of one block: of its rows by column tiles, then of its columns by row tiles.
  const int most_columns = static_cast<int>(sweep.stride()), most_rows = static_cast<int>(sweep.rows());
  const int64_t by_row = static_cast<int64_t>(column_tiles<T>(most_columns)) * most_rows;
  const int64_t by_column = problem.self ? static_cast<int64_t>(row_tiles<T>(most_rows)) * most_columns : 0;
  const Tensor partial = empty_like_device(call.units, {2 * (by_row + by_column)}, dtype_of<T>);
  T *part = static_cast<T *>(partial.mutable_data_ptr());
  sweep.for_each_similarity_block([&](const Block &block, const SimilarityBlock<T> &similarity) {
    const int height = similarity.rows, breadth = similarity.columns;
    const PartialStatistics<T> of_rows{block.row, height, column_tiles<T>(breadth), part, part + by_row};
    T *rest = part + 2 * by_row;
    const PartialStatistics<T> of_columns{block.column, breadth, block.mirrored ? row_tiles<T>(height) : 0,
                                          rest, rest + by_column};
    sweep.kernels().negative_statistics(constants, problem, similarity, rows.negative_threshold, of_rows,
                                        of_columns, call.stream);
    merge_statistics(of_rows, of_columns, negatives, call.stream);
  });

  sweep.kernels().losses(constants, problem, negatives, rows, output, call.stream);
}

template <typename Input>
void pair_backward(const PairCall<Input> &call, PairRows<Accumulator<Input>> rows, const Tensor &grad_anchors,
                   const Tensor &grad_candidates) {
  using T = Accumulator<Input>;
  const PairProblem<Input> &problem = call.problem;
  const PairSweep<Input> sweep(call);
  const int64_t stride = sweep.stride();
  const Tensor weights = empty_like_device(call.units, {sweep.rows(), stride}, call.units.scalar_type());
  Input *weight = static_cast<Input *>(weights.mutable_data_ptr());
  const GradientSum<Input> sum(call, std::max(sweep.rows(), stride));
  const bool want_anchors = grad_anchors.numel() > 0, want_candidates = grad_candidates.numel() > 0;
  sweep.for_each_similarity_block([&](const Block &block, const SimilarityBlock<T> &similarity) {
    sweep.kernels().weights(call.constants.data(), problem, similarity, rows, weight, call.stream);
    if (want_anchors)
      sum.add(grad_anchors, block.row, block.rows, matrix(weights, 0, block.rows, block.columns, stride),
              sweep.candidate_units(block));
    if (problem.self ? block.mirrored && want_anchors : want_candidates)
      sum.add(problem.self ? grad_anchors : grad_candidates, block.column, block.columns,
              matrix(weights, 0, block.columns, block.rows, 1, stride), sweep.anchor_units(block));
  });
}

#define FASTDML_FOR_INPUT(Input)                                                                             \
  template void pair_forward<Input>(const PairCall<Input> &, PairRows<Accumulator<Input>>,                   \
                                    LossOutput<Accumulator<Input>>);                                         \
  template void pair_backward<Input>(const PairCall<Input> &, PairRows<Accumulator<Input>>, const Tensor &,  \
                                     const Tensor &);
FASTDML_FOR_INPUT(float)
FASTDML_FOR_INPUT(double)
FASTDML_FOR_INPUT(torch::headeronly::Half)
FASTDML_FOR_INPUT(torch::headeronly::BFloat16)

} // namespace fastdml::cuda
