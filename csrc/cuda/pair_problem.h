// What the kernels of the pair engine read and write. All pointers are device memory.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "cuda/closeness.h"
#include "cuda/row_length.h"
#include "cuda/selection.h"

namespace fastdml::cuda {

// Sums over pairs are kept in float64 for float64 input and in float32 for all others.
template <typename Input>
using Accumulator = std::conditional_t<std::is_same_v<Input, double>, double, float>;

// What is known of rows sorted by label: norms as given, the sorted range of each row's label on the other
// side, and the sorted candidate that an anchor itself is, or -1.
template <typename T> struct PairSide {
  int64_t count;
  const T *norms;                   // [count]
  const int32_t *start, *end, *own; // [count]
};

template <typename T> struct PairProblem {
  PairSide<T> anchors, candidates; // the same side for self-pairs
  bool self;
  bool normalised;   // rows are compared at length one,
  bool keeps_length; // and stored with a length in [1, 2)
  Closeness closeness;
  Selection<T> selection;

  // 1 over the stored length of a row that is compared at length one.
  FASTDML_HD T inverse_length(T norm) const {
    if constexpr (std::is_same_v<T, float>)
      return keeps_length ? 1 / kept_length(norm) : 1;
    return 1;
  }
};

// The rows themselves, as row_length.h says, or as given where they are not normalised.
template <typename Input> struct StoredRows {
  int64_t width;
  const Input *anchors, *candidates; // [count, width]
};

// Products of the anchors from `row` with the candidates from `column`, as they are stored. Rows lie `stride`
// apart, a multiple of four elements, and what is beyond the columns is unspecified.
template <typename T> struct ProductBlock {
  T *products; // [rows, stride]
  int64_t stride;
  int64_t row, column;
  int rows, columns;
};

// Of every anchor: the least close positive where it was asked for, then what the dense sweep gathers.
template <typename T> struct NegativeStatistics {
  T *least;                       // [anchors]
  T *most, *sum, *second, *count; // [anchors]; `most` of all negatives, the rest of the kept ones
};

// The share of every tile of a block in the statistics of `count` anchors from `first`.
template <typename T> struct PartialStatistics {
  int64_t first;
  int count, tiles;
  T *most, *sum, *second, *kept; // [tiles, count]
};

// The numbers that decide about an anchor's pairs, each [anchors].
template <typename T> struct PairRows {
  T *negative_threshold, *positive_threshold, *negative_row, *positive_row;
};

// Where the statistics of the sorted anchors go, and what makes them NaN where PyTorch's would be.
template <typename T> struct StatisticsOutput {
  T *statistics;        // [8, anchors], input order
  const int64_t *order; // [anchors]
  const T *poison;      // one number: 0, or NaN where a candidate is not finite
};

// Gradients of the sums, each [anchors].
template <typename T> struct SumGradients {
  T *negative_sum, *positive_sum, *positive_second;
};

// What weights of pairs are written in. A weight may be of any size, which fp16 could not hold before it is
// known.
template <typename Input>
using Weight = std::conditional_t<std::is_same_v<Input, torch::headeronly::Half>, float, Input>;

} // namespace fastdml::cuda
