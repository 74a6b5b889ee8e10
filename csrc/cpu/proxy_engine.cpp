#include "cpu/proxy_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/centre_gradients.h"
#include "cpu/kernels_for_this_cpu.h"
#include "cpu/matrix_product.h"
#include "torch_check.h"

namespace fastdml {

FASTDML_KERNELS_FOR_THIS_CPU(ProxyKernels, proxy_kernels)

namespace {

constexpr int64_t samples_of_a_block = 256;
constexpr int64_t tile_elements = 1 << 17; // 512 KB of fp32: a common L2
constexpr int64_t tile_centres = 2048;     // of few samples: sums stay short, and workers' memory small
constexpr int64_t tasks_of_a_thread = 4;   // so that a thread that was held up is helped out

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t first, count;
};

Range part_of(int64_t total, int64_t parts, int64_t part) {
  const int64_t first = part * total / parts;
  return {first, (part + 1) * total / parts - first};
}

// Strips of classes and blocks of samples. A task is a strip in a round, in which it meets one block; strips
// of a group meet different blocks, so that each may add to the group's own sums over samples.
template <typename T> class ProxySweep {
public:
  explicit ProxySweep(const ProxyProblem<T> &problem)
      : problem_(problem), kernels_(proxy_kernels_for_this_cpu<T>()),
        blocks_(divide_up(problem.samples, samples_of_a_block)),
        block_samples_(divide_up(problem.samples, blocks_)),
        tile_classes_(std::clamp<int64_t>(
            std::min(tile_elements / block_samples_, tile_centres) / problem.per_class, 1, problem.classes)),
        piece_classes_(
            std::clamp<int64_t>(tile_elements / (problem.per_class * problem.width), 1, problem.classes)) {
    const int64_t threads = torch::stable::get_num_threads(),
                  tiles = divide_up(problem.classes, tile_classes_);
    strips_ = std::min(tiles, threads * (blocks_ < tasks_of_a_thread ? tasks_of_a_thread : 1));
    groups_ = divide_up(strips_, blocks_);
    const int64_t centres = tile_classes_ * problem.per_class;
    worker_elements_ =
        centres * block_samples_ + tile_classes_ * block_samples_ + proxy_scratch(problem.per_class);
    memory_.reset(new T[threads * worker_elements_]);
    inverse_.resize(problem.centre_count(), T(1));
  }

  int64_t groups() const { return groups_; }
  int64_t rounds() const { return blocks_; }

  // Memory of a worker, which it uses and forgets.
  struct Memory {
    T *s, *pooled, *scratch;
  };

  // Calls visit(classes, their centres) for pieces of a tile, which a tile's products left in the cache.
  template <typename Visit> void for_each_piece_of_centres(Range tile, const Visit &visit) const {
    for_each_piece(tile, piece_classes_, [&](Range classes) {
      visit(classes, CentreGradients<T>(problem_, kernels_, inverse_.data(), classes.first, classes.count));
    });
  }

  // Calls visit(classes, samples, group, round, memory) for every tile; memory.s holds its products.
  template <typename Visit> void for_each_tile(const Visit &visit) {
    for (int64_t round = 0; round < blocks_; ++round)
      torch::stable::parallel_for(0, strips_, 1, [&](int64_t begin, int64_t end) {
        const Memory memory = memory_of_this_thread();
        for (int64_t strip = begin; strip < end; ++strip) {
          const Range samples = part_of(problem_.samples, blocks_, (strip + round) % blocks_);
          for_each_piece(part_of(problem_.classes, strips_, strip), tile_classes_, [&](Range classes) {
            multiply(classes, samples, memory.s);
            visit(classes, samples, strip / blocks_, round, memory);
          });
        }
      });
  }

  template <typename Visit>
  static void for_each_piece(Range strip, int64_t most_classes, const Visit &visit) {
    for (int64_t c = 0; c < strip.count; c += most_classes)
      visit(Range{strip.first + c, std::min(most_classes, strip.count - c)});
  }

  ProxyTile<T> tile_of(Range classes, Range samples, T *s) const {
    const int64_t first = classes.first * problem_.per_class;
    return {s,
            classes.count,
            problem_.per_class,
            samples.count,
            inverse_.data() + first,
            problem_.sharpness,
            problem_.most};
  }

  // Centres of a piece as rows of a matrix.
  Matrix centres_of(const T *all, Range classes) const {
    const int64_t first = classes.first * problem_.per_class, count = classes.count * problem_.per_class;
    return problem_.columns ? Matrix(all + first, count, problem_.width, 1, problem_.centre_count())
                            : Matrix(all + first * problem_.width, count, problem_.width, problem_.width);
  }

  Matrix rows_of(const T *all, Range samples) const {
    return Matrix(all + samples.first * problem_.width, samples.count, problem_.width, problem_.width);
  }

  // The labels of samples within a piece.
  void labels_of(Range classes, Range samples, std::vector<int32_t> &label) const {
    label.resize(samples.count);
    for (int64_t j = 0; j < samples.count; ++j) {
      const int64_t c = problem_.label[samples.first + j] - classes.first;
      label[j] = c >= 0 && c < classes.count ? static_cast<int32_t>(c) : -1;
    }
  }

  void find_norms(T *norms) {
    torch::stable::parallel_for(0, strips_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t strip = begin; strip < end; ++strip)
        find_norms_of(part_of(problem_.classes, strips_, strip), norms);
    });
  }

  void invert_norms(const T *norms) {
    if (problem_.normalised)
      for (int64_t k = 0; k < problem_.centre_count(); ++k)
        inverse_[k] = T(1) / std::max(norms[k], static_cast<T>(smallest_norm));
  }

  const ProxyKernels<T> &kernels() const { return kernels_; }

private:
  Memory memory_of_this_thread() const {
    uint32_t thread = 0;
    FASTDML_CHECK_TORCH(torch_get_thread_idx(&thread));
    const int64_t centres = tile_classes_ * problem_.per_class;
    T *s = memory_.get() + thread * worker_elements_, *pooled = s + centres * block_samples_,
      *scratch = pooled + tile_classes_ * block_samples_;
    return {s, pooled, scratch};
  }

  void find_norms_of(Range classes, T *norms) const {
    const int64_t first = classes.first * problem_.per_class, count = classes.count * problem_.per_class,
                  width = problem_.width;
    if (problem_.columns)
      kernels_.column_squares(problem_.centres + first, problem_.centre_count(), width, count, norms + first);
    else
      for (int64_t k = first; k < first + count; ++k)
        kernels_.gram(problem_.centres + k * width, 1, width, norms + k);
    for (int64_t k = first; k < first + count; ++k)
      norms[k] = std::sqrt(norms[k]);
  }

  void multiply(Range classes, Range samples, T *s) const {
    product(Matrix(s, classes.count * problem_.per_class, samples.count, samples.count),
            centres_of(problem_.centres, classes),
            Matrix(problem_.rows + samples.first * problem_.width, problem_.width, samples.count, 1,
                   problem_.width));
  }

  const ProxyProblem<T> &problem_;
  const ProxyKernels<T> &kernels_;
  int64_t blocks_, block_samples_, tile_classes_, piece_classes_, strips_, groups_, worker_elements_;
  std::unique_ptr<T[]> memory_;
  std::vector<T> inverse_;
};

// The sums of every group over all samples, joined in their order.
template <typename T> class GroupSums {
public:
  GroupSums(int64_t groups, int64_t samples)
      : groups_(groups), samples_(samples), most_(groups * samples, -std::numeric_limits<T>::infinity()),
        sum_(groups * samples, T(0)), target_(groups * samples, T(0)), total_(groups * samples, T(0)) {}

  ProxySums<T> of(int64_t group, int64_t sample) {
    const int64_t at = group * samples_ + sample;
    return {most_.data() + at, sum_.data() + at, target_.data() + at, total_.data() + at};
  }

  void join(ProxyStatistics<T> found) const {
    for (int64_t j = 0; j < samples_; ++j) {
      T most = most_[j], sum = 0, target = 0, total = 0;
      for (int64_t g = 1; g < groups_; ++g)
        most = std::max(most, most_[g * samples_ + j]);
      for (int64_t g = 0; g < groups_; ++g) {
        const int64_t at = g * samples_ + j;
        if (sum_[at] > T(0))
          sum += sum_[at] * std::exp(most_[at] - most);
        target += target_[at];
        total += total_[at];
      }
      found.others[j] = sum > T(0) ? most + std::log(sum) : most;
      found.target[j] = target;
      found.total[j] = total;
    }
  }

private:
  int64_t groups_, samples_;
  std::vector<T> most_, sum_, target_, total_;
};

} // namespace

template <typename T> void proxy_forward(const ProxyProblem<T> &problem, ProxyStatistics<T> found) {
  ProxySweep<T> sweep(problem);
  sweep.find_norms(found.norms);
  sweep.invert_norms(found.norms);
  GroupSums<T> sums(sweep.groups(), problem.samples);
  sweep.for_each_tile([&](Range classes, Range samples, int64_t group, int64_t round, const auto &memory) {
    std::vector<int32_t> label;
    sweep.labels_of(classes, samples, label);
    const ProxyTile<T> tile = sweep.tile_of(classes, samples, memory.s);
    const bool is_plain = problem.pooling == Pooling::single && !problem.normalised;
    if (!is_plain)
      sweep.kernels().pool(problem.pooling, tile, memory.pooled);
    sweep.kernels().gather(is_plain ? memory.s : memory.pooled, classes.count, samples.count, label.data(),
                           problem.scale, sums.of(group, samples.first));
    if (found.spread && round == 0)
      sweep.for_each_piece_of_centres(classes, [&](Range piece, CentreGradients<T> &&centres) {
        centres.find_spread(found.spread + piece.first);
      });
  });
  sums.join(found);
}

template <typename T>
void proxy_backward(const ProxyProblem<T> &problem, ProxyGrads<T> grads, const T *grad_spread, const T *norms,
                    T *grad_rows, T *grad_centres) {
  ProxySweep<T> sweep(problem);
  sweep.invert_norms(norms);
  const int64_t size = problem.samples * problem.width;
  std::vector<T> group_grads(grad_rows ? (sweep.groups() - 1) * size : 0, T(0)),
      along(problem.centre_count(), T(0));
  sweep.for_each_tile([&](Range classes, Range samples, int64_t group, int64_t round, const auto &memory) {
    std::vector<int32_t> label;
    sweep.labels_of(classes, samples, label);
    const int64_t j = samples.first, centres = classes.count * problem.per_class;
    sweep.kernels().weights(problem.pooling, sweep.tile_of(classes, samples, memory.s), label.data(),
                            problem.scale,
                            {grads.others + j, grads.target + j, grads.total + j, grads.logsumexp + j},
                            memory.scratch, along.data() + classes.first * problem.per_class);
    if (grad_rows)
      add_product(sweep.rows_of(group ? group_grads.data() + (group - 1) * size : grad_rows, samples),
                  Matrix(memory.s, samples.count, centres, 1, samples.count),
                  sweep.centres_of(problem.centres, classes));
    if (!grad_centres)
      return;
    const Matrix out = sweep.centres_of(grad_centres, classes),
                 weights(memory.s, centres, samples.count, samples.count),
                 rows = sweep.rows_of(problem.rows, samples);
    if (round == 0)
      product(out, weights, rows);
    else
      add_product(out, weights, rows);
    if (round + 1 < sweep.rounds() || !(grad_spread || problem.normalised))
      return;
    sweep.for_each_piece_of_centres(classes, [&](Range piece, CentreGradients<T> &&centres) {
      if (grad_spread)
        centres.finish_with_spread(grad_spread + piece.first, along.data(), grad_centres);
      else
        centres.finish(along.data(), grad_centres);
    });
  });
  for (int64_t group = 1; grad_rows && group < sweep.groups(); ++group)
    for (int64_t k = 0; k < size; ++k)
      grad_rows[k] += group_grads[(group - 1) * size + k];
}

template void proxy_forward<float>(const ProxyProblem<float> &, ProxyStatistics<float>);
template void proxy_forward<double>(const ProxyProblem<double> &, ProxyStatistics<double>);
template void proxy_backward<float>(const ProxyProblem<float> &, ProxyGrads<float>, const float *,
                                    const float *, float *, float *);
template void proxy_backward<double>(const ProxyProblem<double> &, ProxyGrads<double>, const double *,
                                     const double *, double *, double *);

} // namespace fastdml
