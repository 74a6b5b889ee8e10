// Pooling, sums and weights of the proxy engine. Compiled once for every instruction set (FASTDML_ISA names
// it), so everything here stands in a namespace of that name and includes no framework.
#include "cpu/proxy_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/vector_math.h"

#ifndef FASTDML_ISA
#define FASTDML_ISA baseline
#endif

namespace fastdml::FASTDML_ISA {
namespace {

// Of n <= proxy_strip samples and one class: similarities by centre are s[k * stride + j] * inverse[k].
template <typename T> struct ClassStrip {
  const T *s;
  int64_t stride, per_class, n;
  const T *inverse;
  T sharpness, most;
};

template <typename T> void closest(const ClassStrip<T> &strip, T *__restrict most) {
#pragma omp simd
  for (int64_t j = 0; j < strip.n; ++j)
    most[j] = strip.s[j] * strip.inverse[0];
  for (int64_t k = 1; k < strip.per_class; ++k) {
    const T *__restrict s = strip.s + k * strip.stride;
    const T inverse = strip.inverse[k];
#pragma omp simd
    for (int64_t j = 0; j < strip.n; ++j) {
      const T found = s[j] * inverse;
      most[j] = found > most[j] ? found : most[j];
    }
  }
}

// Adds the terms of the inner softmax: their sum, their sum times the similarities, and each where `kept`.
template <typename T, bool kept, typename Exp>
void add_terms(const ClassStrip<T> &strip, const Exp &exp_of_less, T *__restrict pooled, T *__restrict sum,
               T *__restrict kept_terms) {
  for (int64_t k = 0; k < strip.per_class; ++k) {
    const T *__restrict s = strip.s + k * strip.stride;
    const T inverse = strip.inverse[k];
#pragma omp simd
    for (int64_t j = 0; j < strip.n; ++j) {
      const T found = s[j] * inverse;
      const T term = exp_of_less(found, j);
      sum[j] += term;
      pooled[j] += term * found;
      if constexpr (kept)
        kept_terms[k * proxy_strip + j] = term;
    }
  }
}

// The inner softmax: pooled similarities, the sums of exponentials, and the exponentials where `kept`.
template <typename T, bool kept>
void soften(const ClassStrip<T> &strip, T *__restrict pooled, T *__restrict sum, T *__restrict kept_terms) {
  const VectorMath<T> math;
  const T sharpness = strip.sharpness * T(1.44269504088896340736);
  for (int64_t j = 0; j < strip.n; ++j)
    pooled[j] = sum[j] = T(0);
  if (strip.most < std::numeric_limits<T>::infinity()) {
    const T shift = strip.most * sharpness;
    const auto exp_of_less = [&](T found, int64_t) { return math.exp2_within(found * sharpness - shift); };
    add_terms<T, kept>(strip, exp_of_less, pooled, sum, kept_terms);
  } else {
    T most[proxy_strip];
    closest(strip, most);
    const auto exp_of_less = [&](T found, int64_t j) { return math.exp2((found - most[j]) * sharpness); };
    add_terms<T, kept>(strip, exp_of_less, pooled, sum, kept_terms);
  }
#pragma omp simd
  for (int64_t j = 0; j < strip.n; ++j)
    pooled[j] /= sum[j];
}

template <typename T> ClassStrip<T> strip_of(const ProxyTile<T> &tile, int64_t c, int64_t j) {
  return {tile.s + c * tile.per_class * tile.samples + j,
          tile.samples,
          tile.per_class,
          std::min(proxy_strip, tile.samples - j),
          tile.inverse + c * tile.per_class,
          tile.sharpness,
          tile.most};
}

template <typename T> void pool(Pooling pooling, const ProxyTile<T> &tile, T *pooled) {
  T sum[proxy_strip];
  for (int64_t c = 0; c < tile.classes; ++c)
    for (int64_t j = 0; j < tile.samples; j += proxy_strip) {
      const ClassStrip<T> strip = strip_of(tile, c, j);
      T *out = pooled + c * tile.samples + j;
      if (pooling == Pooling::soft)
        soften<T, false>(strip, out, sum, nullptr);
      else
        closest(strip, out);
    }
}

template <typename T>
void gather(const T *pooled, int64_t classes, int64_t samples, const int32_t *label, T scale,
            ProxySums<T> sums) {
  const VectorMath<T> math;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  for (int64_t first = 0; first < samples; first += proxy_strip) {
    const int64_t n = std::min(proxy_strip, samples - first);
    const int32_t *__restrict own = label + first;
    // of this tile alone, and then added: a running sum over all classes would lose digits
    T most[proxy_strip], shift[proxy_strip], sum[proxy_strip], target[proxy_strip], total[proxy_strip];
    for (int64_t j = 0; j < n; ++j) {
      most[j] = -infinity;
      sum[j] = target[j] = total[j] = T(0);
    }
    for (int32_t c = 0; c < static_cast<int32_t>(classes); ++c) {
      const T *__restrict s = pooled + c * samples + first;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        const bool is_own = own[j] == c;
        const T other = is_own ? -infinity : s[j];
        most[j] = other > most[j] ? other : most[j];
        target[j] += is_own ? s[j] : T(0);
        total[j] += s[j];
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      const T before = sums.most[first + j], now = std::max(before, scale * most[j]);
      shift[j] = now == -infinity ? T(0) : now;
      sums.sum[first + j] *= before == -infinity ? T(0) : math.exp(before - now);
      sums.most[first + j] = now;
    }
    for (int32_t c = 0; c < static_cast<int32_t>(classes); ++c) {
      const T *__restrict s = pooled + c * samples + first;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        const T term = math.exp(scale * s[j] - shift[j]);
        sum[j] += own[j] == c ? T(0) : term;
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      sums.sum[first + j] += sum[j];
      sums.target[first + j] += target[j];
      sums.total[first + j] += total[j];
    }
  }
}

// Of one class: gradients by its pooled similarity, [n].
template <typename T>
void class_grads(const T *__restrict pooled, int64_t n, const int32_t *__restrict own, int32_t c, T scale,
                 const ProxyGrads<T> &grads, int64_t first, T *__restrict out) {
  const VectorMath<T> math;
  const T *__restrict others = grads.others + first, *__restrict target = grads.target + first,
                      *__restrict total = grads.total + first,
                      *__restrict logsumexp = grads.logsumexp + first;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const T share = scale * pooled[j] - logsumexp[j]; // rounding may leave it above 0
    const T push = others[j] * scale * math.exp(share < T(0) ? share : T(0));
    out[j] = (own[j] == c ? target[j] : push) + total[j] + T(0) * pooled[j]; // NaN stays NaN
  }
}

template <typename T>
void weights(Pooling pooling, const ProxyTile<T> &tile, const int32_t *label, T scale, ProxyGrads<T> grads,
             T *scratch, T *along) {
  T pooled[proxy_strip], sum[proxy_strip], by_class[proxy_strip];
  for (int64_t c = 0; c < tile.classes; ++c)
    for (int64_t first = 0; first < tile.samples; first += proxy_strip) {
      const ClassStrip<T> strip = strip_of(tile, c, first);
      if (pooling == Pooling::soft)
        soften<T, true>(strip, pooled, sum, scratch);
      else
        closest(strip, pooled);
      class_grads(pooled, strip.n, label + first, static_cast<int32_t>(c), scale, grads, first, by_class);
      if (pooling == Pooling::soft)
        for (int64_t j = 0; j < strip.n; ++j)
          sum[j] = by_class[j] / sum[j];
      for (int64_t k = 0; k < tile.per_class; ++k) {
        T *__restrict s = tile.s + (c * tile.per_class + k) * tile.samples + first;
        const T *__restrict terms = scratch + k * proxy_strip;
        const T inverse = strip.inverse[k];
        T along_this = 0;
        if (pooling == Pooling::soft) {
#pragma omp simd reduction(+ : along_this)
          for (int64_t j = 0; j < strip.n; ++j) {
            const T found = s[j] * inverse;
            const T weight = sum[j] * terms[j] * (T(1) + (found - pooled[j]) * strip.sharpness);
            along_this += weight * found;
            s[j] = weight * inverse;
          }
        } else if (pooling == Pooling::single) {
#pragma omp simd reduction(+ : along_this)
          for (int64_t j = 0; j < strip.n; ++j) {
            along_this += by_class[j] * pooled[j];
            s[j] = by_class[j] * inverse;
          }
        } else {
#pragma omp simd reduction(+ : along_this)
          for (int64_t j = 0; j < strip.n; ++j) {
            const T found = s[j] * inverse;
            const T weight = by_class[j] * (found == pooled[j] ? T(1) : T(0) * found);
            by_class[j] = by_class[j] - weight; // the first of equals takes it all
            along_this += weight * pooled[j];
            s[j] = weight * inverse;
          }
        }
        along[c * tile.per_class + k] += along_this;
      }
    }
}

template <typename T>
void column_squares(const T *w, int64_t stride, int64_t width, int64_t n, T *__restrict squares) {
  std::fill_n(squares, n, T(0));
  for (int64_t d = 0; d < width; ++d) {
    const T *__restrict row = w + d * stride;
#pragma omp simd
    for (int64_t k = 0; k < n; ++k)
      squares[k] += row[k] * row[k];
  }
}

template <typename T> void gram(const T *w, int64_t count, int64_t width, T *gram) {
  for (int64_t s = 0; s < count; ++s)
    for (int64_t t = 0; t <= s; t += 2) {
      const bool both = t < s;
      const T *__restrict a = w + s * width, *__restrict b = w + t * width,
                          *__restrict c = both ? b + width : b;
      T first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
      for (int64_t d = 0; d < width; ++d) {
        first += a[d] * b[d];
        second += a[d] * c[d];
      }
      gram[s * count + t] = gram[t * count + s] = first;
      if (both)
        gram[s * count + t + 1] = gram[(t + 1) * count + s] = second;
    }
}

template <typename T> FASTDML_HD T distance(T product) { return std::sqrt(T(2) + T(1e-5) - T(2) * product); }

template <typename T> T spread(const T *gram, int64_t count) {
  T sum = 0;
  for (int64_t s = 1; s < count; ++s) {
    const T *__restrict products = gram + s * count;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < s; ++t)
      sum += distance(products[t]);
  }
  return sum;
}

template <typename T>
void spread_factors(const T *gram, int64_t count, T grad, const T *inverse, const T *along, T *factors) {
  for (int64_t s = 0; s < count; ++s) {
    const T *__restrict products = gram + s * count;
    T *__restrict factor = factors + s * count;
    const T scale = -grad * inverse[s];
    T own = 0;
    const auto add = [&](int64_t first,
                         int64_t end) { // itself left out: its own factor would drown the others
#pragma omp simd reduction(+ : own)
      for (int64_t t = first; t < end; ++t) {
        factor[t] = scale / distance(products[t]);
        own += factor[t] * products[t];
      }
    };
    add(0, s);
    add(s + 1, count);
    factor[s] = inverse[s] < T(1 / smallest_norm) ? -own - along[s] * inverse[s] : T(0);
  }
}

// Of n <= lane coordinates from d on; a full lane stays in registers.
template <typename T, int64_t lane>
void mix_lane(const T *factors, const T *w, int64_t count, int64_t width, int64_t d, int64_t n,
              T *__restrict out) {
  T sum[lane] = {};
  for (int64_t t = 0; t < count; ++t) {
    const T factor = factors[t];
    const T *__restrict from = w + t * width + d;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      sum[j] += factor * from[j];
  }
  for (int64_t j = 0; j < n; ++j)
    out[d + j] = sum[j];
}

template <typename T> void mix(const T *factors, const T *w, int64_t count, int64_t width, T *out) {
  constexpr int64_t lane = 128 / sizeof(T);
  for (int64_t s = 0; s < count; ++s) {
    int64_t d = 0;
    for (; d + lane <= width; d += lane)
      mix_lane<T, lane>(factors + s * count, w, count, width, d, lane, out + s * width);
    if (d < width)
      mix_lane<T, lane>(factors + s * count, w, count, width, d, width - d, out + s * width);
  }
}

template <typename T>
constexpr ProxyKernels<T> table = {pool<T>, gather<T>, weights<T>,        column_squares<T>,
                                   gram<T>, spread<T>, spread_factors<T>, mix<T>};

} // namespace

template <typename T> const ProxyKernels<T> &proxy_kernels() { return table<T>; }
template const ProxyKernels<float> &proxy_kernels<float>();
template const ProxyKernels<double> &proxy_kernels<double>();

} // namespace fastdml::FASTDML_ISA
