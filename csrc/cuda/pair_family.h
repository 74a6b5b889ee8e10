// The kernels of one family of terms; pair_<family>.cu makes them.
#pragma once

#include "cuda/launch.h"
#include "cuda/pair_kernels.h"
#include "cuda/pair_statistics.h"
#include "cuda/pair_weights.h"

namespace fastdml::cuda {

template <template <typename> class Terms, typename Input> PairKernels<Input> pair_kernels() {
  using T = Accumulator<Input>;
  PairKernels<Input> kernels{};
  kernels.reads_least = Terms<T>::reads_least;
  kernels.negative_statistics =
      [](const double *constants, const PairProblem<T> &problem, const ProductBlock<T> &block,
         PairRows<T> rows, PartialStatistics<T> of_rows, PartialStatistics<T> of_columns, Stream stream) {
        const auto kernel = of_columns.tiles > 0 ? negative_statistics_kernel<Terms, true, T>
                                                 : negative_statistics_kernel<Terms, false, T>;
        launch(kernel, tile_grid(block), tile_threads, stream, Terms<T>::from_constants(constants), problem,
               block, rows, of_rows, of_columns);
      };
  kernels.positive_statistics = [](const double *constants, const PairProblem<T> &problem,
                                   const StoredRows<Input> &stored, NegativeStatistics<T> negatives,
                                   PairRows<T> rows, StatisticsOutput<T> output, Stream stream) {
    launch(positive_statistics_kernel<Terms, Input>, positive_grid(problem.anchors.count), positive_threads,
           stream, Terms<T>::from_constants(constants), problem, stored, negatives, rows, output);
  };
  kernels.weights = [](const double *constants, const PairProblem<T> &problem,
                       const StoredRows<Input> &stored, const ProductBlock<T> &block, PairRows<T> rows,
                       SumGradients<T> grads, Weight<Input> *weights, Stream stream) {
    const auto terms = Terms<T>::from_constants(constants);
    const auto kernel = problem.self ? negative_weights_kernel<Terms, true, Weight<Input>, T>
                                     : negative_weights_kernel<Terms, false, Weight<Input>, T>;
    launch(kernel, tile_grid(block), tile_threads, stream, terms, problem, block, rows, grads, weights);
    launch(positive_weights_kernel<Terms, Input>, positive_grid(block.rows), positive_threads, stream, terms,
           problem, stored, block, rows, grads, weights);
  };
  return kernels;
}

} // namespace fastdml::cuda

#define FASTDML_PAIR_FAMILY(Terms)                                                                           \
  namespace fastdml::cuda {                                                                                  \
  template PairKernels<float> pair_kernels<Terms, float>();                                                  \
  template PairKernels<double> pair_kernels<Terms, double>();                                                \
  template PairKernels<torch::headeronly::Half> pair_kernels<Terms, torch::headeronly::Half>();              \
  template PairKernels<torch::headeronly::BFloat16> pair_kernels<Terms, torch::headeronly::BFloat16>();      \
  }
