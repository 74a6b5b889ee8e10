// The passes of the pair engine into which the terms of a loss enter, as a table of functions.
#pragma once

#include "cuda/pair_problem.h"
#include "cuda/stream.h"

namespace fastdml::cuda {

// `constants` are on the host.
template <typename Input> struct PairKernels {
  using T = Accumulator<Input>;

  bool reads_least; // whether the positives' rows need the least close positive

  // Negative statistics of a block's rows, in column tiles, and where of_columns.tiles > 0 of its columns, in
  // row tiles.
  void (*negative_statistics)(const double *constants, const PairProblem<T> &, const ProductBlock<T> &,
                              PairRows<T>, PartialStatistics<T> of_rows, PartialStatistics<T> of_columns,
                              Stream);
  // The positive sweep: statistics, positive thresholds and rows.
  void (*positive_statistics)(const double *constants, const PairProblem<T> &, const StoredRows<Input> &,
                              NegativeStatistics<T>, PairRows<T>, StatisticsOutput<T>, Stream);
  // Weights [rows, stride] of a block's pairs: of its rows and, for self-pairs, of both rows and columns;
  // over both stored lengths, so that their products with stored rows are gradients of unit rows over a
  // stored length. They may take the place of the products.
  void (*weights)(const double *constants, const PairProblem<T> &, const StoredRows<Input> &,
                  const ProductBlock<T> &, PairRows<T>, SumGradients<T>, Weight<Input> *weights, Stream);
};

// Each family of terms has a file of its own.
template <template <typename> class Terms, typename Input> PairKernels<Input> pair_kernels();

} // namespace fastdml::cuda
