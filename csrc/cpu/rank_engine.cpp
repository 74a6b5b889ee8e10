#include "cpu/rank_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/kernels_for_this_cpu.h"
#include "cpu/matrix_product.h"
#include "cpu/pair_layout.h"
#include "cpu/rank_kernels.h"
#include "torch_check.h"

namespace fastdml {

FASTDML_KERNELS_FOR_THIS_CPU(RankKernels, rank_kernels)

namespace {

constexpr int64_t block_rows = 512;     // of the queries and of the gallery
constexpr int64_t least_rows = 16;      // of the queries, where there are too few for every thread
constexpr int64_t strip_rows = 64;      // queries whose positives are looked up together
constexpr int64_t transposed_rows = 16; // columns of a block that are counted together
constexpr int64_t transposed_stride = block_rows + 16; // a power of two would crowd one set of the cache
constexpr int64_t tile_elements = block_rows * block_rows;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T> class RankSweep {
public:
  RankSweep(const RankProblem<T> &problem, int32_t *counts)
      : problem_(problem), kernels_(rank_kernels_for_this_cpu<T>()), counts_(counts),
        thresholds_(new T[problem.offset[problem.queries]]), number_(problem.queries, 0),
        memory_(new T[torch::stable::get_num_threads() * worker_elements]) {}

  // The similarity below which a negative does not stand before a positive, for every positive, ascending.
  void find_thresholds() {
    for_each(divide_up(problem_.queries, strip_rows), [&](int64_t strip) {
      const int64_t first = strip * strip_rows, rows = std::min(strip_rows, problem_.queries - first);
      const int64_t last = problem_.end[first + rows - 1], widest = tile_elements / rows;
      T *similarity = worker_memory();
      for (int64_t column = problem_.start[first]; column < last; column += widest) {
        const int64_t columns = std::min(widest, last - column);
        similarities(first, rows, column, columns, similarity);
        for (int64_t i = 0; i < rows; ++i)
          take_positives(first + i, similarity + i * columns, column, columns);
      }
      for (int64_t q = first; q < first + rows; ++q) {
        T *found = thresholds_.get() + problem_.offset[q];
        for (int32_t k = 0; k < number_[q]; ++k) {
          const T lowest = std::numeric_limits<T>::lowest(), threshold = found[k] - problem_.slack[q];
          found[k] = threshold > lowest ? threshold : lowest; // NaN too
        }
        std::sort(found, found + number_[q]);
      }
    });
  }

  void count_negatives() {
    std::fill_n(counts_, problem_.offset[problem_.queries], 0);
    if (problem_.self)
      count_within();
    else
      count_across();
  }

  // Turns the counts into ranks.
  void rank() {
    for_each(
        problem_.queries,
        [&](int64_t q) {
          int32_t *counts = counts_ + problem_.offset[q];
          const int32_t number = number_[q];
          if (number > compared_thresholds)
            for (int32_t k = number - 1; k > 0; --k)
              counts[k - 1] += counts[k];
          std::reverse(counts, counts + number);
          for (int32_t k = 0; k < number; ++k)
            counts[k] += k + 1;
        },
        4096);
  }

private:
  static constexpr int64_t worker_elements = tile_elements + transposed_rows * transposed_stride;

  template <typename F> static void for_each(int64_t count, const F &f, int64_t grain = 1) {
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        f(k);
    });
  }

  T *worker_memory() {
    uint32_t thread = 0;
    FASTDML_CHECK_TORCH(torch_get_thread_idx(&thread));
    return memory_.get() + thread * worker_elements;
  }

  void similarities(int64_t row, int64_t rows, int64_t column, int64_t columns, T *out) const {
    const int64_t width = problem_.width;
    product(Matrix(out, rows, columns, columns),
            Matrix(problem_.query_rows + row * width, rows, width, width),
            Matrix(problem_.gallery_rows + column * width, width, columns, 1, width));
  }

  void take_positives(int64_t q, const T *similarity, int64_t column, int64_t columns) {
    T *found = thresholds_.get() + problem_.offset[q];
    const int64_t last = std::min<int64_t>(problem_.end[q], column + columns);
    for (int64_t j = std::max<int64_t>(problem_.start[q], column); j < last; ++j)
      if (j != problem_.own[q] &&
          !(problem_.query_camera && problem_.query_camera[q] == problem_.gallery_camera[j]))
        found[number_[q]++] = similarity[j - column];
  }

  // Each pair of blocks once: a similarity counts for its row and for its column.
  void count_within() {
    const int64_t blocks = divide_up(problem_.queries, block_rows);
    const Rounds rounds(blocks, blocks, true);
    for (int64_t round = 0; round < rounds.count(); ++round) {
      const std::vector<BlockPair> pairs = rounds.pairs(round);
      for_each(static_cast<int64_t>(pairs.size()), [&](int64_t k) {
        const int64_t row = pairs[k].row * block_rows, column = pairs[k].column * block_rows;
        const int64_t rows = std::min(block_rows, problem_.queries - row),
                      columns = std::min(block_rows, problem_.queries - column);
        T *similarity = worker_memory();
        similarities(row, rows, column, columns, similarity);
        count_rows(similarity, columns, row, rows, column, columns);
        if (row != column)
          count_columns(similarity, row, rows, column, columns, similarity + tile_elements);
      });
    }
  }

  void count_across() {
    const int64_t share = divide_up(problem_.queries, torch::stable::get_num_threads());
    const int64_t side = std::clamp(share, least_rows, block_rows);
    for_each(divide_up(problem_.queries, side), [&](int64_t block) {
      const int64_t row = block * side, rows = std::min(side, problem_.queries - row);
      T *similarity = worker_memory();
      for (int64_t column = 0; column < problem_.gallery; column += block_rows) {
        const int64_t columns = std::min(block_rows, problem_.gallery - column);
        similarities(row, rows, column, columns, similarity);
        for (int64_t i = 0; i < rows; ++i)
          if (const int64_t own = problem_.own[row + i] - column; own >= 0 && own < columns)
            similarity[i * columns + own] = -std::numeric_limits<T>::infinity();
        count_rows(similarity, columns, row, rows, column, columns);
      }
    });
  }

  // `similarity` [rows, columns] of the queries from `first` on with the gallery rows from `column` on.
  void count_rows(const T *similarity, int64_t stride, int64_t first, int64_t rows, int64_t column,
                  int64_t columns) {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t q = first + i;
      if (number_[q] == 0)
        continue;
      const T *s = similarity + i * stride, *thresholds = thresholds_.get() + problem_.offset[q];
      int32_t *counts = counts_ + problem_.offset[q];
      const int64_t before = std::clamp<int64_t>(problem_.start[q] - column, 0, columns),
                    after = std::clamp<int64_t>(problem_.end[q] - column, 0, columns);
      kernels_.count(s, before, thresholds, number_[q], counts);
      kernels_.count(s + after, columns - after, thresholds, number_[q], counts);
    }
  }

  void count_columns(const T *similarity, int64_t row, int64_t rows, int64_t column, int64_t columns,
                     T *transposed) {
    for (int64_t j = 0; j < columns; j += transposed_rows) {
      const int64_t taken = std::min(transposed_rows, columns - j);
      kernels_.transpose(similarity + j, columns, rows, taken, transposed, transposed_stride);
      count_rows(transposed, transposed_stride, column + j, taken, row, rows);
    }
  }

  const RankProblem<T> &problem_;
  const RankKernels<T> &kernels_;
  int32_t *counts_;                 // as the ranks
  std::unique_ptr<T[]> thresholds_; // as the ranks
  std::vector<int32_t> number_;     // of positives of each query
  std::unique_ptr<T[]> memory_;
};

} // namespace

template <typename T> void rank_positives(const RankProblem<T> &problem, int32_t *ranks) {
  RankSweep<T> sweep(problem, ranks);
  sweep.find_thresholds();
  sweep.count_negatives();
  sweep.rank();
}
template void rank_positives<float>(const RankProblem<float> &, int32_t *);
template void rank_positives<double>(const RankProblem<double> &, int32_t *);

} // namespace fastdml
