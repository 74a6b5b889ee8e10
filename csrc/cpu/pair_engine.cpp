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

constexpr int64_t narrow_block = 256; // 256 KB of fp32: half of a common L2
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
    FASTDML_CHECK_TORCH(torch_get_thread_idx(&thread));
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
        workspace_(tile_elements_ + column_side_) {}

  // Calls visit(block, closeness, memory) for every pair of blocks; pairs of one round run in parallel.
  // Closeness is read from `tiles` where known, else computed: into `tiles` where kept, else into the
  // worker's memory, which the visit may overwrite: a block, and one row of it after that.
  enum class Tiles { absent, to_fill, filled };
  template <typename Visit> void for_each_block(T *tiles, Tiles state, const Visit &visit) {
    for (int64_t round = 0; round < rounds_.count(); ++round) {
      const std::vector<BlockPair> pairs = rounds_.pairs(round);
      torch::stable::parallel_for(0, static_cast<int64_t>(pairs.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const Block block = block_of(pairs[k]);
          T *memory = workspace_.of_this_thread();
          T *c = tiles ? tiles + slot(pairs[k]) * tile_elements_ : memory;
          if (state != Tiles::filled)
            closeness(block, c);
          if (state == Tiles::to_fill)
            std::fill(c + block.rows * block.columns, c + tile_elements_, T(0));
          visit(block, c, memory);
        }
      });
    }
  }

  T *row_after(T *memory) const { return memory + tile_elements_; }

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
          T *c = workspace_.of_this_thread();
          closeness(block, c);
          visit(tile_of(block, c, spans.data()), row);
        }
      }
    });
  }

  // Describes a block to the kernels; `spans` takes 3 * block.rows numbers.
  PairTile<T> tile_of(const Block &block, const T *closeness, int32_t *spans) const {
    int32_t *start = spans, *end = spans + block.rows, *own = spans + 2 * block.rows;
    for (int64_t i = 0; i < block.rows; ++i) {
      const auto clip = [&](int64_t column) {
        return static_cast<int32_t>(std::clamp<int64_t>(column - block.column, 0, block.columns));
      };
      start[i] = clip(problem_.anchors.start[block.row + i]);
      end[i] = clip(problem_.anchors.end[block.row + i]);
      const int64_t column = problem_.anchors.own[block.row + i] - block.column;
      own[i] = column >= 0 && column < block.columns ? static_cast<int32_t>(column) : -1;
    }
    return {closeness, block.rows, block.columns, start, end, own};
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

  void closeness(const Block &block, T *out) const {
    const int64_t width = problem_.width;
    const PairSide<T> &anchors = problem_.anchors, &candidates = problem_.candidates;
    product(Matrix(out, block.rows, block.columns, block.columns),
            Matrix(anchors.rows + block.row * width, block.rows, width, width),
            Matrix(candidates.rows + block.column * width, width, block.columns, 1, width));
    if (problem_.closeness != Closeness::inner)
      problem_.kernels->to_closeness(problem_.closeness, out, block.rows, block.columns,
                                     anchors.squares + block.row, candidates.squares + block.column);
  }

  const PairProblem<T> &problem_;
  int64_t row_side_, column_side_, row_blocks_, column_blocks_;
  Rounds rounds_;
  int64_t tile_elements_;
  Workspace<T> workspace_;
};

// Number of positives and of negatives of every anchor.
template <typename T> void count_pairs(const PairProblem<T> &problem, T *positives, T *negatives) {
  const PairSide<T> &anchors = problem.anchors;
  for (int64_t i = 0; i < anchors.count; ++i) {
    const int64_t same = anchors.end[i] - anchors.start[i], own = anchors.own[i];
    const bool own_is_same = own >= anchors.start[i] && own < anchors.end[i];
    positives[i] = static_cast<T>(same - own_is_same);
    negatives[i] = static_cast<T>(problem.candidates.count - same - (own >= 0 && !own_is_same));
  }
}

} // namespace

bool Selection::selects() const {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  return relative || negative != -infinity || positive != infinity || duplicate != infinity;
}

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
void pair_forward(const PairProblem<T> &problem, PairStatistics<T> found, PairRows<T> rows, T *tiles) {
  const PairKernels<T> &kernels = *problem.kernels;
  const Selection &selection = problem.selection;
  const double *constants = problem.constants;
  const T negative_threshold = static_cast<T>(selection.negative),
          positive_threshold = static_cast<T>(selection.positive),
          duplicate = static_cast<T>(selection.duplicate);
  const int64_t count = problem.anchors.count;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  for (T *sum : {found.negative_sum, found.negative_second, found.positive_sum, found.positive_second,
                 found.positives, found.negatives})
    std::fill_n(sum, count, T(0));
  std::fill_n(found.most_negative, count, -infinity);
  std::fill_n(found.least_positive, count, infinity);
  PairSweep<T> sweep(problem);

  const bool least_first = selection.relative || kernels.reads_least;
  if (least_first)
    sweep.for_each_positive_strip([&](const PairTile<T> &tile, int64_t row) {
      kernels.positive_least(tile, duplicate, found.least_positive + row);
    });
  for (int64_t i = 0; i < count; ++i)
    rows.negative_threshold[i] =
        selection.relative ? found.least_positive[i] - negative_threshold : negative_threshold;

  const auto negatives_from = [&](int64_t row) {
    return NegativeSums<T>{rows.negative_threshold + row, rows.negative_row + row, found.negative_sum + row,
                           found.negative_second + row,   found.negatives + row,   found.most_negative + row};
  };
  sweep.for_each_block(tiles, tiles ? PairSweep<T>::Tiles::to_fill : PairSweep<T>::Tiles::absent,
                       [&](const Block &block, const T *closeness, T *) {
                         std::vector<int32_t> spans(3 * block.rows);
                         const bool both = problem.self && block.row != block.column;
                         kernels.negative_sums(constants, sweep.tile_of(block, closeness, spans.data()),
                                               negatives_from(block.row),
                                               both ? negatives_from(block.column) : NegativeSums<T>{});
                       });

  for (int64_t i = 0; i < count; ++i)
    rows.positive_threshold[i] =
        selection.relative ? found.most_negative[i] + positive_threshold : positive_threshold;
  kernels.positive_row(constants, count, rows.negative_row, found.least_positive, found.most_negative,
                       found.negative_sum, rows.positive_row);
  sweep.for_each_positive_strip([&](const PairTile<T> &tile, int64_t row) {
    if (!least_first)
      kernels.positive_least(tile, duplicate, found.least_positive + row);
    kernels.positive_sums(constants, tile, duplicate,
                          {rows.positive_threshold + row, rows.positive_row + row, found.positive_sum + row,
                           found.positive_second + row, found.positives + row});
  });
  if (!selection.selects())
    count_pairs(problem, found.positives, found.negatives);
}

template <typename T>
void pair_backward(const PairProblem<T> &problem, PairRow<T> rows, const T *tiles, T *grad_anchors,
                   T *grad_candidates) {
  const PairKernels<T> &kernels = *problem.kernels;
  const int64_t width = problem.width;
  const auto rows_of = [&](T *all, int64_t row, int64_t count) {
    return Matrix(all + row * width, count, width, width);
  };
  PairSweep<T> sweep(problem);
  sweep.for_each_block(
      const_cast<T *>(tiles), tiles ? PairSweep<T>::Tiles::filled : PairSweep<T>::Tiles::absent,
      [&](const Block &block, const T *closeness, T *weights) {
        std::vector<int32_t> spans(3 * block.rows);
        const bool any = kernels.weights(
            problem.constants, problem.closeness, sweep.tile_of(block, closeness, spans.data()),
            static_cast<T>(problem.selection.duplicate), rows.from(block.row),
            problem.self ? rows.from(block.column) : PairRow<T>{}, weights, sweep.row_after(weights));
        if (!any) // a hinge leaves whole blocks at 0
          return;
        if (grad_anchors)
          add_product(rows_of(grad_anchors, block.row, block.rows),
                      Matrix(weights, block.rows, block.columns, block.columns),
                      rows_of(const_cast<T *>(problem.candidates.rows), block.column, block.columns));
        T *grad_columns =
            problem.self ? (block.row == block.column ? nullptr : grad_anchors) : grad_candidates;
        if (grad_columns)
          add_product(rows_of(grad_columns, block.column, block.columns),
                      Matrix(weights, block.columns, block.rows, 1, block.columns),
                      rows_of(const_cast<T *>(problem.anchors.rows), block.row, block.rows));
      });
}

template void pair_forward<float>(const PairProblem<float> &, PairStatistics<float>, PairRows<float>,
                                  float *);
template void pair_forward<double>(const PairProblem<double> &, PairStatistics<double>, PairRows<double>,
                                   double *);
template void pair_backward<float>(const PairProblem<float> &, PairRow<float>, const float *, float *,
                                   float *);
template void pair_backward<double>(const PairProblem<double> &, PairRow<double>, const double *, double *,
                                    double *);

} // namespace fastdml
