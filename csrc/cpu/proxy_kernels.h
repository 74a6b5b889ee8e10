// The passes of the proxy engine over one tile: the centres of some classes against some samples, free of any
// framework.
//
// A tile has a row for each centre, the centres of a class together, and a column for each sample, so that
// every loop runs over samples. proxy_kernels.cpp is compiled once for every instruction set;
// proxy_kernels_for_this_cpu picks at run time.
#pragma once

#include <cstdint>

namespace fastdml {

constexpr double smallest_norm = 1e-12; // as torch's normalize

// How the similarities of a class's centres become one: it has a single centre, its closest one counts, the
// first of equals, or a softmax of temperature 1 / sharpness weighs them.
enum class Pooling { single, closest, soft };

template <typename T> struct ProxyTile {
  T *s; // [classes * per_class, samples]
  int64_t classes, per_class, samples;
  const T *inverse; // [classes * per_class]: products times this are similarities
  T sharpness;
  T most; // no similarity is larger, where exponentials of them less this stay in range; else infinite
};

// What is gathered of every sample of a tile: a log-sum-exp as its running maximum and sum, and two sums.
template <typename T> struct ProxySums {
  T *most, *sum, *target, *total;
};

// The gradients of what was gathered, and the log-sum-exp of all other classes.
template <typename T> struct ProxyGrads {
  const T *others, *target, *total, *logsumexp;
};

template <typename T> struct ProxyKernels {
  // pooled[c, j]: the similarity of class c to sample j.
  void (*pool)(Pooling pooling, const ProxyTile<T> &tile, T *pooled);
  // Adds the pooled similarities of a tile to the sums; label[j] is the class of sample j within the tile.
  void (*gather)(const T *pooled, int64_t classes, int64_t samples, const int32_t *label, T scale,
                 ProxySums<T> sums);
  // Turns products into weights of the centres as they are stored, in place, and adds to along[centre] the
  // sum of the weights by similarity times the similarity. `scratch` takes proxy_scratch(per_class) elements.
  void (*weights)(Pooling pooling, const ProxyTile<T> &tile, const int32_t *label, T scale,
                  ProxyGrads<T> grads, T *scratch, T *along);
  // Sums of squares of n columns of w [width, n] with rows `stride` apart.
  void (*column_squares)(const T *w, int64_t stride, int64_t width, int64_t n, T *squares);
  // gram[s, t] = <w[s], w[t]> of the rows of w [count, width].
  void (*gram)(const T *w, int64_t count, int64_t width, T *gram);
  // Sum of the distances of unit vectors, from their inner products [count, count]: sqrt(2 + 1e-5 - 2 <u,
  // v>). The 1e-5 (fastdml.rules.proxy.APART) keeps the slope finite once they have merged.
  T (*spread)(const T *gram, int64_t count);
  // What to multiply the unit vectors with, and to sum, for the gradient of `grad` times the spread and of
  // what has along[s] along each, by the vectors before they were scaled by inverse[s]: factors [count,
  // count]. Those that were too short to be scaled to length one take nothing along themselves.
  void (*spread_factors)(const T *gram, int64_t count, T grad, const T *inverse, const T *along, T *factors);
  // out[s] = sum over t of factors[s, t] w[t], of rows w and out [count, width].
  void (*mix)(const T *factors, const T *w, int64_t count, int64_t width, T *out);
};

constexpr int64_t proxy_strip = 256; // samples that a pass works on while their numbers are in the L1 cache

constexpr int64_t proxy_scratch(int64_t per_class) { return per_class * proxy_strip; }

template <typename T> const ProxyKernels<T> &proxy_kernels_for_this_cpu();

} // namespace fastdml
