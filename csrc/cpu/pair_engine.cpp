#include "cpu/pair_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/matrix_product.h"
#include "cpu/pair_layout.h"
#include "torch_check.h"

namespace fastdml {
namespace {

constexpr int64_t narrow_block = 256; // 256 KB of fp32 similarities: half of a common L2
constexpr int64_t wide_block = 512;   // fewer passes over the gradients, from this many rows on:
constexpr int64_t wide_from = 4096;
constexpr int64_t kept_budget = 3 << 20; // elements: 12 MB of fp32
constexpr int64_t strip_rows = 64;       // anchors whose positives are visited together
constexpr int64_t row_alignment = 16;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory that each worker uses and forgets, left as it comes.
template <typename T> class Workspace {
public:
  explicit Workspace(int64_t elements)
      : elements_(elements), memory_(new T[elements * torch::stable::get_num_threads()]) {}

  T *of_this_thread() {
    uint32_t thread = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_thread_idx(&thread));
    return memory_.get() + thread * elements_;
  }

private:
  int64_t elements_;
  std::unique_ptr<T[]> memory_;
};

// Where one block of rows and one block of columns meet.
struct Block {
  int64_t row, rows, column, columns;
};

template <typename T> class PairSweep {
public:
  explicit PairSweep(const PairProblem<T> &problem)
      : problem_(problem), row_side_(block_side(problem.anchors.count)),
        column_side_(problem.self ? row_side_ : block_side(problem.candidates.count)),
        row_blocks_(divide_up(problem.anchors.count, row_side_)),
        column_blocks_(divide_up(problem.candidates.count, column_side_)),
        rounds_(row_blocks_, column_blocks_, problem.self), tile_elements_(row_side_ * column_side_),
        workspace_(tile_elements_) {}

  // Calls visit(block, similarities) for every pair of blocks; pairs of one round run in parallel. The
  // similarities are read from `tiles` where known, else computed: into `tiles` where kept, else into the
  // worker's memory.
  enum class Tiles { absent, to_fill, filled };
  template <typename Visit> void for_each_block(T *tiles, Tiles state, const Visit &visit) {
    for (int64_t round = 0; round < rounds_.count(); ++round) {
      const std::vector<BlockPair> pairs = rounds_.pairs(round);
      torch::stable::parallel_for(0, static_cast<int64_t>(pairs.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const Block block = block_of(pairs[k]);
          T *similarity = tiles ? tiles + slot(pairs[k]) * tile_elements_ : workspace_.of_this_thread();
          if (state != Tiles::filled)
            similarities(block, similarity);
          if (state == Tiles::to_fill)
            std::fill(similarity + block.rows * block.columns, similarity + tile_elements_, T(0));
          visit(block, similarity, workspace_.of_this_thread());
        }
      });
    }
  }

  // Calls visit(tile, first row) for strips of anchors against the columns that hold their positives.
  template <typename Visit> void for_each_positive_strip(const Visit &visit) {
    const int64_t strips = divide_up(problem_.anchors.count, strip_rows);
    torch::stable::parallel_for(0, strips, 1, [&](int64_t begin, int64_t end) {
      std::vector<int32_t> spans(3 * strip_rows);
      for (int64_t k = begin; k < end; ++k) {
        const int64_t row = k * strip_rows, rows = std::min(strip_rows, problem_.anchors.count - row);
        const int64_t first = problem_.anchors.start[row], last = problem_.anchors.end[row + rows - 1];
        const int64_t widest = tile_elements_ / rows;
        for (int64_t column = first; column < last; column += widest) {
          const Block block{row, rows, column, std::min(widest, last - column)};
          T *similarity = workspace_.of_this_thread();
          similarities(block, similarity);
          visit(tile_of(block, similarity, spans.data()), row);
        }
      }
    });
  }

  // Describes a block to the kernels; `spans` takes 3 * block.rows numbers.
  PairTile<T> tile_of(const Block &block, const T *similarity, int32_t *spans) const {
    int32_t *start = spans, *end = spans + block.rows, *self = spans + 2 * block.rows;
    for (int64_t i = 0; i < block.rows; ++i) {
      const auto clip = [&](int64_t column) {
        return static_cast<int32_t>(std::clamp<int64_t>(column - block.column, 0, block.columns));
      };
      start[i] = clip(problem_.anchors.start[block.row + i]);
      end[i] = clip(problem_.anchors.end[block.row + i]);
      const int64_t own = block.row + i - block.column;
      self[i] = problem_.self && own >= 0 && own < block.columns ? static_cast<int32_t>(own) : -1;
    }
    return {similarity, block.columns, block.rows, block.columns, start, end, self};
  }

private:
  Block block_of(const BlockPair &pair) const {
    const int64_t row = pair.row * row_side_, column = pair.column * column_side_;
    return {row, std::min(row_side_, problem_.anchors.count - row), column,
            std::min(column_side_, problem_.candidates.count - column)};
  }

  int64_t slot(const BlockPair &pair) const {
    return problem_.self ? pair.column * (pair.column + 1) / 2 + pair.row
                         : pair.row * column_blocks_ + pair.column;
  }

  void similarities(const Block &block, T *out) const {
    const int64_t width = problem_.width;
    product(Matrix(out, block.rows, block.columns, block.columns),
            Matrix(problem_.anchors.units + block.row * width, block.rows, width, width),
            Matrix(problem_.candidates.units + block.column * width, width, block.columns, 1, width));
  }

  const PairProblem<T> &problem_;
  int64_t row_side_, column_side_, row_blocks_, column_blocks_;
  Rounds rounds_;
  int64_t tile_elements_;
  Workspace<T> workspace_;
};

} // namespace

int64_t block_side(int64_t count) {
  const int64_t blocks =
      std::max<int64_t>(1, divide_up(count, count < wide_from ? narrow_block : wide_block));
  return divide_up(divide_up(count, blocks), row_alignment) * row_alignment;
}

int64_t kept_elements(int64_t anchors, int64_t candidates, bool self) {
  const int64_t row_side = block_side(anchors), column_side = block_side(candidates);
  const int64_t row_blocks = divide_up(anchors, row_side), column_blocks = divide_up(candidates, column_side);
  const int64_t pairs = self ? row_blocks * (row_blocks + 1) / 2 : row_blocks * column_blocks;
  const int64_t elements = pairs * row_side * column_side;
  return elements <= kept_budget ? elements : 0;
}

template <typename T>
void pair_forward(const PairProblem<T> &problem, T *losses, PairRows<T> rows, T *tiles) {
  const PairKernels<T> &kernels = *problem.kernels;
  const double *constants = problem.constants;
  const int64_t count = problem.anchors.count;
  PairSweep<T> sweep(problem);

  T *threshold = rows.negative_threshold;
  std::fill_n(threshold, count, std::numeric_limits<T>::infinity());
  sweep.for_each_positive_strip([&](const PairTile<T> &tile, int64_t row) {
    kernels.positive_least(constants, tile, threshold + row);
  });
  kernels.negative_threshold(constants, count, threshold);

  std::vector<T> most(count, -std::numeric_limits<T>::infinity()), negative_sum(count, T(0));
  const auto negatives_from = [&](int64_t row) {
    return NegativeStatistics<T>{threshold + row, most.data() + row, negative_sum.data() + row};
  };
  sweep.for_each_block(tiles, tiles ? PairSweep<T>::Tiles::to_fill : PairSweep<T>::Tiles::absent,
                       [&](const Block &block, const T *similarity, T *) {
                         std::vector<int32_t> spans(3 * block.rows);
                         const bool both = problem.self && block.row != block.column;
                         kernels.negative_statistics(
                             constants, sweep.tile_of(block, similarity, spans.data()),
                             negatives_from(block.row),
                             both ? negatives_from(block.column) : NegativeStatistics<T>{});
                       });

  kernels.positive_threshold(constants, count, most.data(), rows.positive_threshold);
  std::vector<T> &positive_sum = most; // the maxima are spent
  std::fill(positive_sum.begin(), positive_sum.end(), T(0));
  sweep.for_each_positive_strip([&](const PairTile<T> &tile, int64_t row) {
    kernels.positive_sum(constants, tile, rows.positive_threshold + row, positive_sum.data() + row);
  });
  kernels.losses(constants, count, negative_sum.data(), positive_sum.data(), losses, rows.negative_scale,
                 rows.positive_scale);
}

template <typename T>
void pair_backward(const PairProblem<T> &problem, PairRow<T> rows, const T *tiles, T *grad_anchors,
                   T *grad_candidates) {
  const PairKernels<T> &kernels = *problem.kernels;
  const int64_t width = problem.width;
  const auto from = [](PairRow<T> all, int64_t row) {
    return PairRow<T>{all.negative_threshold + row, all.positive_threshold + row, all.negative_scale + row,
                      all.positive_scale + row};
  };
  const auto rows_of = [&](T *all, int64_t row, int64_t count) {
    return Matrix(all + row * width, count, width, width);
  };
  PairSweep<T> sweep(problem);
  sweep.for_each_block(
      const_cast<T *>(tiles), tiles ? PairSweep<T>::Tiles::filled : PairSweep<T>::Tiles::absent,
      [&](const Block &block, const T *similarity, T *weights) {
        std::vector<int32_t> spans(3 * block.rows);
        kernels.weights(problem.constants, sweep.tile_of(block, similarity, spans.data()),
                        from(rows, block.row), problem.self ? from(rows, block.column) : PairRow<T>{},
                        weights);
        if (grad_anchors)
          add_product(rows_of(grad_anchors, block.row, block.rows),
                      Matrix(weights, block.rows, block.columns, block.columns),
                      rows_of(const_cast<T *>(problem.candidates.units), block.column, block.columns));
        T *grad_columns =
            problem.self ? (block.row == block.column ? nullptr : grad_anchors) : grad_candidates;
        if (grad_columns)
          add_product(rows_of(grad_columns, block.column, block.columns),
                      Matrix(weights, block.columns, block.rows, 1, block.columns),
                      rows_of(const_cast<T *>(problem.anchors.units), block.row, block.rows));
      });
}

template void pair_forward<float>(const PairProblem<float> &, float *, PairRows<float>, float *);
template void pair_forward<double>(const PairProblem<double> &, double *, PairRows<double>, double *);
template void pair_backward<float>(const PairProblem<float> &, PairRow<float>, const float *, float *,
                                   float *);
template void pair_backward<double>(const PairProblem<double> &, PairRow<double>, const double *, double *,
                                    double *);

} // namespace fastdml
