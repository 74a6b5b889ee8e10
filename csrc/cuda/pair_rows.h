// Passes over the rows of embeddings: into sorted unit rows, and from gradients of those back to the input.
// All pointers are device memory.
#pragma once

#include <cstdint>

#include "cuda/pair_kernels.h"

namespace fastdml::cuda {

// Rows of one side in label order, as a stable sort gives them.
struct SortedLabels {
  int64_t count;
  const int64_t *labels; // [count], ascending
  const int64_t *rows;   // [count], the input row of each
};

// order[k] = the input row of sorted row k; [start[k], end[k]) = where its label stands on the other side.
void lay_out(SortedLabels side, SortedLabels other, int64_t *order, int32_t *start, int32_t *end,
             Stream stream);

template <typename Input> struct Embeddings {
  const Input *data;
  int64_t row_stride, column_stride;
};

// units[k] = embeddings[order[k]], stored as row_length.h says, norms[k] = that row's L2 norm; *poison (null:
// none) becomes NaN where a norm is not finite.
template <typename Input>
void gather_units(Embeddings<Input> embeddings, const int64_t *order, int64_t rows, int64_t width,
                  Input *units, Accumulator<Input> *norms, Accumulator<Input> *poison, Stream stream);

// A power of two that lifts the gradients into the middle of fp16's range, and its inverse: range[0],
// range[1].
template <typename T> void find_range(const T *grads, int64_t count, T *range, Stream stream);

// scaled[k] = scales[k] * grads[order[k]], for both scales, times range[0] where a range is given.
template <typename T> struct RowScales {
  const T *negative, *positive; // [rows]
};
template <typename T>
void scale_rows(RowScales<T> scales, const T *grads, const int64_t *order, const T *range, int64_t rows,
                T *scaled_negative, T *scaled_positive, Stream stream);

// sum += part
template <typename T> void add(T *sum, const T *part, int64_t count, Stream stream);

// out[order[k]] = the part of grads[k] that turns the unit row, over the row's norm, times range[1] where a
// range is given; rows too short to be normalised were divided by a constant. grads are those of unit rows
// over a stored length.
template <typename Input>
void scatter_gradients(const Accumulator<Input> *grads, const Input *units, const Accumulator<Input> *norms,
                       const int64_t *order, const Accumulator<Input> *range, int64_t rows, int64_t width,
                       Input *out, Stream stream);

} // namespace fastdml::cuda
