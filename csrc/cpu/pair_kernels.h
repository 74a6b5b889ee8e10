// The passes of the pair engine over one tile of similarities, free of any framework.
//
// pair_kernels.cpp is compiled once for every instruction set; pair_kernels_for_this_cpu picks at run time.
#pragma once

#include <cstdint>

namespace fastdml {

// A tile of similarities, rows anchors and columns candidates, both sorted by label. The positives of row i
// are the columns [start[i], end[i]), counted from the tile's first column and already clipped to the tile;
// the anchor itself, where the tile holds it, is column self[i] (-1: not in this tile).
template <typename T> struct PairTile {
  const T *similarity;
  int64_t row_stride;
  int64_t rows, columns;
  const int32_t *start, *end, *self;
};

// What the dense sweep gathers: the most similar negative and the sum over the kept ones.
template <typename T> struct NegativeStatistics {
  const T *threshold;
  T *most;
  T *sum;
};

// What the backward reads of every row: thresholds, and scales that hold the upstream gradient.
template <typename T> struct PairRow {
  const T *negative_threshold, *positive_threshold;
  const T *negative_scale, *positive_scale;
};

template <typename T> struct PairKernels {
  // Least similar positive of each row of the tile, lowered in place.
  void (*positive_least)(const double *constants, const PairTile<T> &, T *least);
  // Sum of the positive terms of each row, added in place.
  void (*positive_sum)(const double *constants, const PairTile<T> &, const T *threshold, T *sum);
  // Negative statistics of the rows and, where columns.sum is given, of the columns.
  void (*negative_statistics)(const double *constants, const PairTile<T> &, NegativeStatistics<T> rows,
                              NegativeStatistics<T> columns);
  // Weights [rows, columns], contiguous: of the rows and, where columns.negative_scale is given, of both.
  void (*weights)(const double *constants, const PairTile<T> &, PairRow<T> rows, PairRow<T> columns,
                  T *weights);
  // Loss of each row, and the scales that its pairs' weights share.
  void (*losses)(const double *constants, int64_t rows, const T *negative_sum, const T *positive_sum, T *loss,
                 T *negative_scale, T *positive_scale);
  // Thresholds from the statistics that mining reads.
  void (*negative_threshold)(const double *constants, int64_t rows, T *least_to_threshold);
  void (*positive_threshold)(const double *constants, int64_t rows, const T *most, T *threshold);
};

enum class PairRule { multi_similarity };

template <typename T> const PairKernels<T> &pair_kernels_for_this_cpu(PairRule rule);

} // namespace fastdml
