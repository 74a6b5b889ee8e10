// The passes over a block of similarities that make the proxy statistics. All pointers are device memory.
#pragma once

#include <cstdint>

#include "cuda/stream.h"

namespace fastdml::cuda {

template <typename T> struct ProxyProblem {
  int64_t samples;       // B
  const int64_t *labels; // [B]
  int64_t per_class;     // K
  T sharpness;           // one over the temperature of the inner softmax; 0: the most similar centre alone
  T scale;
};

// Similarities of `rows` samples from `row` with the centres of `classes` classes from `first`; that of
// centre k of the block's class c stands in column k * classes + c.
template <typename T> struct ProxyBlock {
  T *similarities; // [rows, K classes]
  int64_t stride;  // elements from row to row
  int64_t row, first;
  int rows, classes; // rows times classes fits an int too
};

// What was gathered of every sample, [B, parts]: parts of the classes are summed apart, by a warp each.
template <typename T> struct ProxyState {
  T *largest, *sum; // of the logits of other classes, and of their exponentials over that of the largest
  T *target, *total;
  int parts; // at most a warp's lanes
};

// Adds a block to the state; the block of the first class begins it.
template <typename T>
void gather_statistics(const ProxyProblem<T> &problem, const ProxyBlock<T> &block, const ProxyState<T> &state,
                       Stream stream);

// The statistics [B] of the samples, from their state; NaN where *poison is or their row [width] is not
// finite.
template <typename T>
void finish_statistics(const ProxyProblem<T> &problem, const ProxyState<T> &state, const T *rows,
                       int64_t width, const T *poison, T *others, T *target, T *total, Stream stream);

// Gradients [B] of the statistics, and the log-sum-exp that was found.
template <typename T> struct ProxyGradients {
  const T *of_others, *of_target, *of_total;
  const T *others;
};

// Makes the similarities the gradients by them.
template <typename T>
void weigh_similarities(const ProxyProblem<T> &problem, const ProxyBlock<T> &block,
                        const ProxyGradients<T> &grads, Stream stream);

} // namespace fastdml::cuda
