// Passes over the anchors that no terms enter.
#pragma once

#include "cuda/pair_problem.h"
#include "cuda/stream.h"

namespace fastdml::cuda {

// The rows and thresholds of the negatives, and the least close positives where they are asked for (else
// inf); clears what the dense sweep gathers. `row` is one number of each anchor in input order, or null.
template <typename Input>
void begin_statistics(const PairProblem<Accumulator<Input>> &problem, const StoredRows<Input> &stored,
                      bool find_least, const Accumulator<Input> *row, const int64_t *order,
                      PairRows<Accumulator<Input>> rows, NegativeStatistics<Accumulator<Input>> statistics,
                      Stream stream);

// Tiles that the dense sweep divides a block's rows and columns into.
template <typename T> int row_tiles(int rows);
template <typename T> int column_tiles(int columns);

// Adds the partial statistics of a block to those of its anchors, tile by tile.
template <typename T>
void merge_statistics(PartialStatistics<T> of_rows, PartialStatistics<T> of_columns,
                      NegativeStatistics<T> all, Stream stream);

// sorted[k] = the gradients of input row order[k], `grads` [3, N]; NaN for anchors that are not finite and,
// where a candidate is not (*poison is NaN), for all.
template <typename T>
void sort_gradients(const T *grads, const int64_t *order, const T *norms, const T *poison, int64_t anchors,
                    SumGradients<T> sorted, Stream stream);

} // namespace fastdml::cuda
