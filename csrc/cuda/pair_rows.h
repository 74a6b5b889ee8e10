// Passes over the rows of embeddings: into sorted rows as they are compared, and from gradients of those back
// to the input. All pointers are device memory.
#pragma once

#include <cstdint>

#include "cuda/pair_problem.h"
#include "cuda/stream.h"

namespace fastdml::cuda {

// Rows of one side in label order, as a stable sort gives them.
struct SortedLabels {
  int64_t count;
  const int64_t *labels; // [count], ascending
  const int64_t *rows;   // [count], the input row of each
};

// order[k] = the input row of sorted row k; [start[k], end[k]) = where its label stands on the other side.
struct Layout {
  int64_t *order;
  int32_t *start, *end;
};
void lay_out(SortedLabels side, SortedLabels other, Layout out, Stream stream);

// own[k] = k: without candidates each anchor is its own.
void fill_own(int32_t *own, int64_t count, Stream stream);
// own[k] = -1: none is.
void clear_own(int32_t *own, int64_t count, Stream stream);
// own[k] = the sorted place of the candidate that the anchor order[k] is by `given` (input order), -1 where
// that is no candidate; `places` [candidates] is scratch.
void find_own(const int64_t *given, const int64_t *order, int64_t anchors, SortedLabels candidates,
              int32_t *places, int32_t *own, Stream stream);

template <typename Input> struct Embeddings {
  const Input *data;
  int64_t row_stride, column_stride;
};

// stored[k] = embeddings[order[k]], stored as row_length.h says where rows are normalised, else as they are;
// norms[k] = that row's L2 norm.
template <typename Input>
void gather_rows(Embeddings<Input> embeddings, bool normalised, const int64_t *order, int64_t rows,
                 int64_t width, Input *stored, Accumulator<Input> *norms, Stream stream);

// *poison becomes NaN where a norm is not finite.
template <typename T> void find_poison(const T *norms, int64_t count, T *poison, Stream stream);

// sum += part, times *factor where that is given.
template <typename T> void add(T *sum, const T *part, const T *factor, int64_t count, Stream stream);

// out[order[k]] = the gradient of the input row, from the gradient of the row as compared over its stored
// length. Of normalised rows it is the part that turns the row, over its norm; rows too short to be
// normalised were divided by a constant.
template <typename Input>
void scatter_gradients(const Accumulator<Input> *grads, const Input *stored, const Accumulator<Input> *norms,
                       bool normalised, const int64_t *order, int64_t rows, int64_t width, Input *out,
                       Stream stream);

} // namespace fastdml::cuda
