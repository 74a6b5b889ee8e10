// The passes of the pair engine on the device. All pointers are device memory but `constants`.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/stream.h"
#include "rules/host_device.h"

namespace fastdml::cuda {

// Sums over pairs are kept in float64 for float64 input and in float32 for all others.
template <typename Input>
using Accumulator = std::conditional_t<std::is_same_v<Input, double>, double, float>;

// Rows sorted by label, stored as row_length.h says, and the sorted range of each row's positives on the
// other side.
template <typename Input> struct PairSide {
  int64_t count;
  const Input *units;              // [count, width]
  const Accumulator<Input> *norms; // [count], of the rows as given
  const int32_t *start, *end;      // [count]
};

template <typename Input> struct PairProblem {
  int64_t width;
  PairSide<Input> anchors;
  PairSide<Input> candidates; // the anchors themselves for self-pairs
  bool self;
};

// Products of the anchors from `row` with the candidates from `column`, as they are stored. Rows lie `stride`
// apart, a multiple of four elements, and what is beyond the columns is unspecified.
template <typename T> struct SimilarityBlock {
  const T *similarity; // [rows, stride]
  int64_t stride;
  int64_t row, column;
  int rows, columns;
};

// What the dense sweep gathers of every anchor: the most similar negative and the sum over the kept ones.
template <typename T> struct NegativeStatistics {
  T *most, *sum; // [anchors]
};

// The share of every tile of a block in the statistics of `count` anchors from `first`.
template <typename T> struct PartialStatistics {
  int64_t first;
  int count, tiles;
  T *most, *sum; // [tiles, count]
};

// What the weights of an anchor's pairs depend on, each [anchors]; in the backward the scales hold the
// gradient.
template <typename T> struct PairRows {
  T *negative_threshold, *positive_threshold, *negative_scale, *positive_scale;
};

// Where the losses of the sorted anchors go, and what makes them NaN where PyTorch's would be.
template <typename T> struct LossOutput {
  T *losses;            // [anchors], input order
  const int64_t *order; // [anchors]
  const T *norms;       // [anchors]
  const T *poison;      // one number: 0, or NaN where a candidate is not finite
};

// Tiles that negative_statistics divides a block's rows and columns into.
template <typename T> int row_tiles(int rows);
template <typename T> int column_tiles(int columns);

template <typename Input> struct PairKernels {
  using T = Accumulator<Input>;

  // Thresholds of the negatives from each anchor's least similar positive; clears the statistics.
  void (*negative_thresholds)(const double *constants, const PairProblem<Input> &, T *threshold,
                              NegativeStatistics<T>, Stream);
  // Negative statistics of a block's rows, in column tiles, and where columns.tiles > 0 of its columns, in
  // row tiles.
  void (*negative_statistics)(const double *constants, const PairProblem<Input> &, const SimilarityBlock<T> &,
                              const T *threshold, PartialStatistics<T> rows, PartialStatistics<T> columns,
                              Stream);
  // The positive sweep with the row epilogue: losses, positive thresholds and scales.
  void (*losses)(const double *constants, const PairProblem<Input> &, NegativeStatistics<T>, PairRows<T>,
                 LossOutput<T>, Stream);
  // Weights [rows, stride] of a block's pairs: of its rows and, for self-pairs, of both rows and columns;
  // over both stored lengths, so that their products with stored rows are gradients of unit rows over a
  // stored length.
  void (*weights)(const double *constants, const PairProblem<Input> &, const SimilarityBlock<T> &,
                  PairRows<T>, Input *weights, Stream);
};

enum class PairRule { multi_similarity };

template <typename Input> PairKernels<Input> pair_kernels(PairRule rule);

// The two halves of the table, each in its own file.
template <typename Input> void set_forward_kernels(PairRule rule, PairKernels<Input> &kernels);
template <typename Input> void set_backward_kernels(PairRule rule, PairKernels<Input> &kernels);

template <typename Input> PairKernels<Input> pair_kernels(PairRule rule) {
  PairKernels<Input> kernels{};
  set_forward_kernels(rule, kernels);
  set_backward_kernels(rule, kernels);
  return kernels;
}

// Adds the partial statistics of a block to those of its anchors, tile by tile.
template <typename T>
void merge_statistics(PartialStatistics<T> rows, PartialStatistics<T> columns, NegativeStatistics<T> all,
                      Stream);

} // namespace fastdml::cuda
