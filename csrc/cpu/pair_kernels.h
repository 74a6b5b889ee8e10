// The passes of the pair engine over one tile of pairs, free of any framework.
//
// pair_kernels.cpp is compiled once for every instruction set; pair_kernels_for_this_cpu picks at run time.
#pragma once

#include <cstdint>

namespace fastdml {

// What pairs are compared by; fastdml/rules/closeness.py holds the meaning of each.
enum class Closeness { inner = 0, euclidean = 1, squared = 2 };

// A tile of closeness [rows, columns], contiguous, rows anchors and columns candidates, both sorted by label.
// The positives of row i are the columns [start[i], end[i]), counted from the tile's first column and already
// clipped to the tile; the candidate that the anchor itself is, where the tile holds it, is column own[i]
// (-1: not in this tile).
template <typename T> struct PairTile {
  const T *closeness;
  int64_t rows, columns;
  const int32_t *start, *end, *own;
};

// Sums over the kept pairs of every row, added in place, and the thresholds and numbers of the rows that they
// read. `count` is left alone where nothing is selected; `most`, the closest negative, is raised in place.
template <typename T> struct NegativeSums {
  const T *threshold, *row;
  T *sum, *second, *count, *most;
};
template <typename T> struct PositiveSums {
  const T *threshold, *row;
  T *sum, *second, *count;
};

// What the backward reads of every row: thresholds, the numbers that its terms read, and the gradients of its
// sums.
template <typename T> struct PairRow {
  const T *negative_threshold, *positive_threshold, *negative_row, *positive_row;
  const T *negative_sum, *positive_sum, *positive_second;

  PairRow from(int64_t row) const {
    return {negative_threshold + row, positive_threshold + row, negative_row + row,   positive_row + row,
            negative_sum + row,       positive_sum + row,       positive_second + row};
  }
};

template <typename T> struct PairKernels {
  // Turns inner products [rows, columns] to closeness in place; squares are the squared lengths of the rows.
  void (*to_closeness)(Closeness, T *products, int64_t rows, int64_t columns, const T *row_squares,
                       const T *column_squares);
  // Least close positive of each row of the tile below `duplicate`, lowered in place.
  void (*positive_least)(const PairTile<T> &, T duplicate, T *least);
  // Sums over the negatives of the rows and, where columns.sum is given, of the columns.
  void (*negative_sums)(const double *constants, const PairTile<T> &, NegativeSums<T> rows,
                        NegativeSums<T> columns);
  // What the positives' terms read of every row, in place of `row`.
  void (*positive_row)(const double *constants, int64_t count, const T *row, const T *least, const T *most,
                       const T *negative_sum, T *positive_row);
  // Sums over the positives of the rows.
  void (*positive_sums)(const double *constants, const PairTile<T> &, T duplicate, PositiveSums<T> rows);
  // Derivatives [rows, columns] of the loss by the inner products: through the sums of the rows and, where
  // columns.negative_sum is given, of the columns. They may replace the closeness; `scratch` takes one row.
  // Returns whether any is not 0.
  bool (*weights)(const double *constants, Closeness, const PairTile<T> &, T duplicate, PairRow<T> rows,
                  PairRow<T> columns, T *weights, T *scratch);
  // Whether positive_row reads `least`.
  bool reads_least;
};

// The kernels for terms of that name (fastdml/rules/terms.py), with or without selection; null for an unknown
// name.
template <typename T> const PairKernels<T> *pair_kernels_for_this_cpu(const char *terms, bool selects);

} // namespace fastdml
