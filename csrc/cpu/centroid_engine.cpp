#include "cpu/centroid_engine.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/centroid_kernels.h"
#include "cpu/kernels_for_this_cpu.h"
#include "cpu/matrix_product.h"
#include "torch_check.h"

namespace fastdml {

FASTDML_KERNELS_FOR_THIS_CPU(CentroidKernels, centroid_kernels)

namespace {

constexpr int64_t most_block_rows = 256, least_block_rows = 32;
constexpr int64_t wanted_blocks = 16;      // of few rows, however many threads share them
constexpr int64_t tile_elements = 1 << 17; // 512 KB of fp32: a common L2
constexpr int64_t gradient_rows = 512;     // of a block of the backward, whose columns are summed over it
constexpr int64_t gradient_groups = 32;    // with sums of their own, however many threads there are

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t first, count;
};

Range part_of(int64_t total, int64_t parts, int64_t part) {
  const int64_t first = part * total / parts;
  return {first, (part + 1) * total / parts - first};
}

template <typename T> Matrix part(const T *all, Range range, int64_t width) {
  return Matrix(all + range.first * width, range.count, width, width);
}

// s [rows, points] = the products of some rows and some points.
template <typename T> void multiply(const CentroidProblem<T> &problem, Range rows, Range points, T *s) {
  product(
      Matrix(s, rows.count, points.count, points.count), part(problem.row, rows, problem.width),
      Matrix(problem.point + points.first * problem.width, problem.width, points.count, 1, problem.width));
}

template <typename T> std::vector<T> squares_of(const T *w, int64_t count, int64_t width) {
  std::vector<T> found(count);
  torch::stable::parallel_for(0, count, 1024, [&](int64_t begin, int64_t end) {
    centroid_kernels_for_this_cpu<T>().squares(w + begin * width, end - begin, width, found.data() + begin);
  });
  return found;
}

// Calls visit(rows, points, s) for every block of rows and, in rising order, all points; s holds the
// products. `begin` and `finish` are called before and after the points of a block.
template <typename T, typename Begin, typename Visit, typename Finish>
void for_each_block(const CentroidProblem<T> &problem, const Begin &begin_rows, const Visit &visit,
                    const Finish &finish_rows) {
  const int64_t block =
      std::clamp<int64_t>(divide_up(problem.rows, wanted_blocks), least_block_rows, most_block_rows);
  const int64_t blocks = divide_up(problem.rows, block),
                tile = std::min(problem.points, tile_elements / most_block_rows);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::unique_ptr<T[]> s(new T[block * tile]);
    for (int64_t b = begin; b < end; ++b) {
      const Range rows = part_of(problem.rows, blocks, b);
      auto state = begin_rows(rows);
      for (int64_t first = 0; first < problem.points; first += tile) {
        const Range points{first, std::min(tile, problem.points - first)};
        multiply(problem, rows, points, s.get());
        visit(rows, points, s.get(), state);
      }
      finish_rows(rows, state);
    }
  });
}

// Entries grouped by key, those of a key in their own order; keys outside [0, keys) are left out.
class Groups {
public:
  Groups(const int64_t *key, int64_t entries, int64_t keys) : start_(keys + 1, 0) {
    const auto known = [&](int64_t e) { return key[e] >= 0 && key[e] < keys; };
    for (int64_t e = 0; e < entries; ++e)
      if (known(e))
        ++start_[key[e] + 1];
    for (int64_t k = 0; k < keys; ++k)
      start_[k + 1] += start_[k];
    entry_.resize(start_[keys]);
    std::vector<int64_t> next(start_.begin(), start_.end() - 1);
    for (int64_t e = 0; e < entries; ++e)
      if (known(e))
        entry_[next[key[e]]++] = e;
  }

  const int64_t *begin(int64_t key) const { return entry_.data() + start_[key]; }
  const int64_t *end(int64_t key) const { return entry_.data() + start_[key + 1]; }

private:
  std::vector<int64_t> start_, entry_;
};

} // namespace

template <typename T>
void nearest_others(const CentroidProblem<T> &problem, const int64_t *labels, const int64_t *point_labels,
                    int64_t k, int64_t *found) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const CentroidKernels<T> &kernels = centroid_kernels_for_this_cpu<T>();
  std::vector<T> halves = squares_of(problem.point, problem.points, problem.width);
  for (T &half : halves)
    half = std::isfinite(half) ? half / 2 : infinity;
  std::fill_n(found, problem.rows * k, int64_t(-1));
  for_each_block(
      problem, [&](Range rows) { return std::vector<T>(rows.count * k, infinity); },
      [&](Range rows, Range points, const T *s, std::vector<T> &keys) {
        for (int64_t i = 0; i < rows.count; ++i)
          kernels.nearest(s + i * points.count, halves.data() + points.first, point_labels + points.first,
                          points.first, points.count,
                          {keys.data() + i * k, found + (rows.first + i) * k, k, labels[rows.first + i]});
      },
      [&](Range rows, std::vector<T> &) {
        std::vector<T> square(rows.count);
        kernels.squares(problem.row + rows.first * problem.width, rows.count, problem.width, square.data());
        for (int64_t i = 0; i < rows.count; ++i)
          if (!std::isfinite(square[i]))
            std::fill_n(found + (rows.first + i) * k, k, int64_t(-1));
      });
}

template <typename T>
void hinge_sums(const CentroidProblem<T> &problem, const int64_t *own, const T *limits, T *sums, T *counts) {
  const CentroidKernels<T> &kernels = centroid_kernels_for_this_cpu<T>();
  const std::vector<T> squares = squares_of(problem.row, problem.rows, problem.width),
                       of_points = squares_of(problem.point, problem.points, problem.width);
  T poison = 0;
  for (const T square : of_points)
    poison += T(0) * square;
  for_each_block(
      problem,
      [&](Range rows) {
        for (int64_t i = rows.first; i < rows.first + rows.count; ++i) {
          sums[i] = poison + T(0) * squares[i];
          counts[i] = T(0);
        }
        return 0;
      },
      [&](Range rows, Range points, const T *s, int) {
        for (int64_t i = 0; i < rows.count; ++i) {
          const int64_t row = rows.first + i;
          kernels.hinge(s + i * points.count,
                        {of_points.data() + points.first, squares[row], limits[row], own[row] - points.first},
                        points.count, sums + row, counts + row);
        }
      },
      [](Range, int) {});
}

template <typename T>
void hinge_gradients(const CentroidProblem<T> &problem, const T *grad, const int64_t *own, const T *limits,
                     T *grad_rows, T *grad_points) {
  const CentroidKernels<T> &kernels = centroid_kernels_for_this_cpu<T>();
  const int64_t width = problem.width, block = std::min(problem.rows, gradient_rows),
                tile = std::min(problem.points, tile_elements / gradient_rows),
                tiles = divide_up(problem.points, tile), groups = std::min(tiles, gradient_groups);
  const std::vector<T> squares = squares_of(problem.row, problem.rows, width),
                       of_points = squares_of(problem.point, problem.points, width);
  std::vector<T> by_group(grad_rows ? groups * block * width : 0), row_sums(groups * block);
  for (int64_t first = 0; first < problem.rows; first += block) {
    const Range rows{first, std::min(block, problem.rows - first)};
    std::fill(by_group.begin(), by_group.end(), T(0));
    std::fill(row_sums.begin(), row_sums.end(), T(0));
    torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      std::unique_ptr<T[]> s(new T[block * tile]);
      std::vector<T> column_sums(tile);
      for (int64_t group = begin; group < end; ++group) {
        const Range own_tiles = part_of(tiles, groups, group);
        for (int64_t t = own_tiles.first; t < own_tiles.first + own_tiles.count; ++t) {
          const Range points{t * tile, std::min(tile, problem.points - t * tile)};
          multiply(problem, rows, points, s.get());
          std::fill(column_sums.begin(), column_sums.end(), T(0));
          for (int64_t i = 0; i < rows.count; ++i) {
            const int64_t row = rows.first + i;
            kernels.weights(
                s.get() + i * points.count,
                {of_points.data() + points.first, squares[row], limits[row], own[row] - points.first},
                grad[row], points.count, row_sums.data() + group * block + i, column_sums.data());
          }
          if (grad_rows)
            add_product(Matrix(by_group.data() + group * block * width, rows.count, width, width),
                        Matrix(s.get(), rows.count, points.count, points.count),
                        part(problem.point, points, width));
          if (!grad_points)
            continue;
          add_product(part(grad_points, points, width),
                      Matrix(s.get(), points.count, rows.count, 1, points.count),
                      part(problem.row, rows, width));
          for (int64_t j = 0; j < points.count; ++j) {
            const int64_t at = (points.first + j) * width;
            for (int64_t d = 0; d < width; ++d)
              grad_points[at + d] -= column_sums[j] * problem.point[at + d];
          }
        }
      }
    });
    if (grad_rows)
      torch::stable::parallel_for(0, rows.count, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          for (int64_t group = 0; group < groups; ++group) {
            const T *from = by_group.data() + (group * block + i) * width,
                    *row = problem.row + (rows.first + i) * width;
            T *into = grad_rows + (rows.first + i) * width;
            for (int64_t d = 0; d < width; ++d)
              into[d] += from[d] - row_sums[group * block + i] * row[d];
          }
      });
  }
}

template <typename T>
void listed_distances(const CentroidProblem<T> &problem, const int64_t *listed, int64_t count, T *distances) {
  const CentroidKernels<T> &kernels = centroid_kernels_for_this_cpu<T>();
  const int64_t width = problem.width;
  torch::stable::parallel_for(0, problem.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin * count; e < end * count; ++e)
      distances[e] = listed[e] < 0 ? T(0)
                                   : kernels.distance(problem.row + e / count * width,
                                                      problem.point + listed[e] * width, width);
  });
}

template <typename T>
void listed_gradients(const CentroidProblem<T> &problem, const T *grad, const int64_t *listed, int64_t count,
                      const T *distances, T *grad_rows, T *grad_points) {
  const CentroidKernels<T> &kernels = centroid_kernels_for_this_cpu<T>();
  const int64_t width = problem.width;
  const auto weight = [&](int64_t e) { return distances[e] == T(0) ? T(0) : grad[e] / distances[e]; };
  if (grad_rows)
    torch::stable::parallel_for(0, problem.rows, 64, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin * count; e < end * count; ++e)
        if (listed[e] >= 0)
          kernels.pull(problem.row + e / count * width, problem.point + listed[e] * width, weight(e), width,
                       grad_rows + e / count * width);
    });
  if (!grad_points)
    return;
  const Groups groups(listed, problem.rows * count, problem.points);
  torch::stable::parallel_for(0, problem.points, 64, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (const int64_t *e = groups.begin(p); e != groups.end(p); ++e)
        kernels.pull(problem.point + p * width, problem.row + *e / count * width, weight(*e), width,
                     grad_points + p * width);
  });
}

template <typename T, typename Sum>
void class_sums(const T *row, int64_t rows, int64_t width, const int64_t *labels, int64_t classes,
                Sum *sums) {
  const CentroidKernels<T> &kernels = centroid_kernels_for_this_cpu<T>();
  const Groups groups(labels, rows, classes);
  torch::stable::parallel_for(0, classes, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> sum(width);
    for (int64_t c = begin; c < end; ++c) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (const int64_t *i = groups.begin(c); i != groups.end(c); ++i)
        kernels.add(row + *i * width, width, sum.data());
      std::copy(sum.begin(), sum.end(), sums + c * width);
    }
  });
}

#define FASTDML_CENTROID_ENGINE(T)                                                                           \
  template void nearest_others<T>(const CentroidProblem<T> &, const int64_t *, const int64_t *, int64_t,     \
                                  int64_t *);                                                                \
  template void hinge_sums<T>(const CentroidProblem<T> &, const int64_t *, const T *, T *, T *);             \
  template void hinge_gradients<T>(const CentroidProblem<T> &, const T *, const int64_t *, const T *, T *,   \
                                   T *);                                                                     \
  template void listed_distances<T>(const CentroidProblem<T> &, const int64_t *, int64_t, T *);              \
  template void listed_gradients<T>(const CentroidProblem<T> &, const T *, const int64_t *, int64_t,         \
                                    const T *, T *, T *);                                                    \
  template void class_sums<T, float>(const T *, int64_t, int64_t, const int64_t *, int64_t, float *);        \
  template void class_sums<T, double>(const T *, int64_t, int64_t, const int64_t *, int64_t, double *);
FASTDML_CENTROID_ENGINE(float)
FASTDML_CENTROID_ENGINE(double)
#undef FASTDML_CENTROID_ENGINE

} // namespace fastdml
