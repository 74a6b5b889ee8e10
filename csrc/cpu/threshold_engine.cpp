#include "cpu/threshold_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/kernels_for_this_cpu.h"
#include "cpu/matrix_product.h"
#include "cpu/pair_layout.h"
#include "cpu/threshold_kernels.h"
#include "torch_check.h"

namespace fastdml {

FASTDML_KERNELS_FOR_THIS_CPU(ThresholdKernels, threshold_kernels)

namespace {

constexpr int64_t narrow_side = 256, wide_side = 512, wide_from = 4096; // rows of a block
constexpr int64_t stripe = 16;                                          // columns transposed together
constexpr int64_t padding = 16; // a stride of a power of two would crowd one set of the cache

int64_t block_side(int64_t count) { return count < wide_from ? narrow_side : wide_side; }

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Block {
  int64_t row, rows, column, columns;
};

template <typename T> class ThresholdSweep {
public:
  explicit ThresholdSweep(const ThresholdProblem<T> &problem)
      : problem_(problem), kernels_(threshold_kernels_for_this_cpu<T>()),
        row_side_(block_side(problem.anchors.count)),
        column_side_(problem.self ? row_side_ : block_side(problem.candidates.count)),
        stride_(row_side_ + padding), worker_elements_(2 * row_side_ * column_side_ + 2 * stripe * stride_),
        memory_(new T[torch::stable::get_num_threads() * worker_elements_]) {}

  void forward(double *counts, double *sums) {
    const auto gather = [&](int64_t anchor, const T *c, int64_t n) {
      const int64_t first = problem_.offset[anchor], number = problem_.offset[anchor + 1] - first;
      kernels_.gather(c, n, problem_.thresholds + first, number, counts + first, sums + first);
    };
    for_each_block([&](const Block &block, T *c) {
      for (int64_t i = 0; i < block.rows; ++i)
        for_negatives(block.row + i, block.column, block.columns,
                      [&](int64_t j, int64_t n) { gather(block.row + i, c + i * block.columns + j, n); });
      if (!problem_.self || block.row == block.column)
        return;
      T *turned = c + 2 * row_side_ * column_side_;
      for (int64_t j = 0; j < block.columns; j += stripe) {
        const int64_t taken = std::min(stripe, block.columns - j);
        kernels_.transpose(c + j, block.columns, block.rows, taken, turned, stride_);
        for (int64_t k = 0; k < taken; ++k)
          for_negatives(block.column + j + k, block.row, block.rows, [&](int64_t i, int64_t n) {
            gather(block.column + j + k, turned + k * stride_ + i, n);
          });
      }
    });
    for (int64_t anchor = 0; anchor < problem_.anchors.count; ++anchor)
      if (looks_up(anchor))
        sum_from_the_end(anchor, counts, sums);
  }

  void backward(const double *grad_sums, T *grad_anchors, T *grad_candidates) {
    const std::vector<T> shares = shares_of(grad_sums);
    if (problem_.self)
      grad_candidates = grad_anchors;
    std::vector<T> anchor_lengths(problem_.anchors.count, T(0)),
        candidate_lengths(problem_.candidates.count, T(0));
    std::vector<T> &column_lengths = problem_.self ? anchor_lengths : candidate_lengths;
    for_each_block([&](const Block &block, T *c) {
      T *w = c + row_side_ * column_side_;
      if (!weigh(block, c, shares.data(), w))
        return;
      kernels_.to_product_weights(problem_.closeness, c, block.rows * block.columns, w);
      const Matrix weights(w, block.rows, block.columns, block.columns),
          turned(w, block.columns, block.rows, 1, block.columns);
      if (grad_anchors)
        add_product(rows_of(grad_anchors, block.row, block.rows), weights,
                    rows_of(problem_.candidates.rows, block.column, block.columns));
      if (grad_candidates)
        add_product(rows_of(grad_candidates, block.column, block.columns), turned,
                    rows_of(problem_.anchors.rows, block.row, block.rows));
      if (problem_.lengths_move)
        for (int64_t i = 0; i < block.rows; ++i)
          for (int64_t j = 0; j < block.columns; ++j) {
            anchor_lengths[block.row + i] += w[i * block.columns + j];
            column_lengths[block.column + j] += w[i * block.columns + j];
          }
    });
    if (!problem_.lengths_move)
      return;
    if (grad_anchors)
      shorten(problem_.anchors, anchor_lengths, grad_anchors);
    if (grad_candidates && !problem_.self)
      shorten(problem_.candidates, candidate_lengths, grad_candidates);
  }

private:
  // Calls visit(block, closeness) for every pair of blocks, for self-pairs once; the pairs of one round run
  // in parallel. After the closeness the worker has room for another block and for two stripes.
  template <typename Visit> void for_each_block(const Visit &visit) {
    const Rounds rounds(divide_up(problem_.anchors.count, row_side_),
                        divide_up(problem_.candidates.count, column_side_), problem_.self);
    for (int64_t round = 0; round < rounds.count(); ++round) {
      const std::vector<BlockPair> pairs = rounds.pairs(round);
      torch::stable::parallel_for(0, static_cast<int64_t>(pairs.size()), 1, [&](int64_t begin, int64_t end) {
        uint32_t thread = 0;
        FASTDML_CHECK_TORCH(torch_get_thread_idx(&thread));
        T *memory = memory_.get() + thread * worker_elements_;
        for (int64_t k = begin; k < end; ++k) {
          const int64_t row = pairs[k].row * row_side_, column = pairs[k].column * column_side_;
          const Block block{row, std::min(row_side_, problem_.anchors.count - row), column,
                            std::min(column_side_, problem_.candidates.count - column)};
          closeness(block, memory);
          visit(block, memory);
        }
      });
    }
  }

  // The anchor itself, where it is a candidate of another label, is no negative: it lies beyond nothing.
  void closeness(const Block &block, T *out) const {
    const ThresholdSide<T> &anchors = problem_.anchors, &candidates = problem_.candidates;
    product(Matrix(out, block.rows, block.columns, block.columns),
            rows_of(anchors.rows, block.row, block.rows),
            Matrix(candidates.rows + block.column * problem_.width, problem_.width, block.columns, 1,
                   problem_.width));
    kernels_.to_closeness(problem_.closeness, out, block.rows, block.columns, anchors.squares + block.row,
                          candidates.squares + block.column);
    if (problem_.own)
      for (int64_t i = 0; i < block.rows; ++i)
        if (const int64_t j = problem_.own[block.row + i] - block.column; j >= 0 && j < block.columns)
          out[i * block.columns + j] = -std::numeric_limits<T>::infinity();
  }

  // Calls visit(first, number) for the two runs of negatives of an anchor among `columns` candidates.
  template <typename Visit>
  void for_negatives(int64_t anchor, int64_t column, int64_t columns, const Visit &visit) const {
    if (problem_.offset[anchor] == problem_.offset[anchor + 1])
      return;
    const int64_t before = std::clamp<int64_t>(problem_.anchors.start[anchor] - column, 0, columns),
                  after = std::clamp<int64_t>(problem_.anchors.end[anchor] - column, 0, columns);
    if (before > 0)
      visit(int64_t(0), before);
    if (after < columns)
      visit(after, columns - after);
  }

  // Weights of a block by the closeness, of its rows and for self-pairs of its columns too; false where all
  // are zero.
  bool weigh(const Block &block, const T *c, const T *shares, T *w) const {
    bool any = false;
    const auto weights = [&](int64_t anchor, const T *from, int64_t n, T *to) {
      const int64_t first = problem_.offset[anchor], number = problem_.offset[anchor + 1] - first;
      return kernels_.weights(from, n, problem_.thresholds + first, shares + first, number, to);
    };
    std::fill_n(w, block.rows * block.columns, T(0));
    for (int64_t i = 0; i < block.rows; ++i)
      for_negatives(block.row + i, block.column, block.columns, [&](int64_t j, int64_t n) {
        const int64_t at = i * block.columns + j;
        any |= weights(block.row + i, c + at, n, w + at);
      });
    if (!problem_.self || block.row == block.column)
      return any;
    T *turned = w + row_side_ * column_side_, *turned_weights = turned + stripe * stride_;
    for (int64_t j = 0; j < block.columns; j += stripe) {
      const int64_t taken = std::min(stripe, block.columns - j);
      kernels_.transpose(c + j, block.columns, block.rows, taken, turned, stride_);
      std::fill_n(turned_weights, stripe * stride_, T(0));
      bool some = false;
      for (int64_t k = 0; k < taken; ++k)
        for_negatives(block.column + j + k, block.row, block.rows, [&](int64_t i, int64_t n) {
          const int64_t at = k * stride_ + i;
          some |= weights(block.column + j + k, turned + at, n, turned_weights + at);
        });
      if (some)
        kernels_.add_transposed(turned_weights, stride_, taken, block.rows, w + j, block.columns);
      any |= some;
    }
    return any;
  }

  bool looks_up(int64_t anchor) const {
    return problem_.offset[anchor + 1] - problem_.offset[anchor] > compared_thresholds;
  }

  // From what lies beyond a threshold and not the next to all that lies beyond it.
  void sum_from_the_end(int64_t anchor, double *counts, double *sums) const {
    double count = 0, sum = 0;
    for (int64_t k = problem_.offset[anchor + 1] - 1; k >= problem_.offset[anchor]; --k) {
      count += counts[k];
      sum += sums[k];
      counts[k] = count;
      sums[k] = count > 0 ? sum - count * static_cast<double>(problem_.thresholds[k]) : 0;
    }
  }

  // As the kernels read them: summed up to each threshold where thresholds are looked up.
  std::vector<T> shares_of(const double *grad_sums) const {
    std::vector<T> shares(grad_sums, grad_sums + problem_.offset[problem_.anchors.count]);
    for (int64_t anchor = 0; anchor < problem_.anchors.count; ++anchor) {
      double sum = 0;
      if (looks_up(anchor))
        for (int64_t k = problem_.offset[anchor]; k < problem_.offset[anchor + 1]; ++k)
          shares[k] = static_cast<T>(sum += grad_sums[k]);
    }
    return shares;
  }

  // A squared length counts against the closeness half as much as the inner product counts for it.
  void shorten(const ThresholdSide<T> &side, const std::vector<T> &lengths, T *grads) const {
    for (int64_t i = 0; i < side.count; ++i)
      for (int64_t d = 0; d < problem_.width; ++d)
        grads[i * problem_.width + d] -= lengths[i] * side.rows[i * problem_.width + d];
  }

  Matrix rows_of(const T *all, int64_t row, int64_t count) const {
    return Matrix(all + row * problem_.width, count, problem_.width, problem_.width);
  }

  const ThresholdProblem<T> &problem_;
  const ThresholdKernels<T> &kernels_;
  int64_t row_side_, column_side_, stride_, worker_elements_;
  std::unique_ptr<T[]> memory_;
};

} // namespace

template <typename T>
void threshold_forward(const ThresholdProblem<T> &problem, double *counts, double *sums) {
  ThresholdSweep<T>(problem).forward(counts, sums);
}

template <typename T>
void threshold_backward(const ThresholdProblem<T> &problem, const double *grad_sums, T *grad_anchors,
                        T *grad_candidates) {
  ThresholdSweep<T>(problem).backward(grad_sums, grad_anchors, grad_candidates);
}

template void threshold_forward<float>(const ThresholdProblem<float> &, double *, double *);
template void threshold_forward<double>(const ThresholdProblem<double> &, double *, double *);
template void threshold_backward<float>(const ThresholdProblem<float> &, const double *, float *, float *);
template void threshold_backward<double>(const ThresholdProblem<double> &, const double *, double *,
                                         double *);

} // namespace fastdml
