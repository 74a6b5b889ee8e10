// The proxy engine on the CPU: tiles of classes by torch's matrix product, and passes over each while it is
// in cache. Nothing here grows with samples x centres.
#pragma once

#include <cstdint>

#include "cpu/proxy_kernels.h"

namespace fastdml {

template <typename T> struct ProxyProblem {
  int64_t samples, width, classes, per_class;
  const T *rows;        // [samples, width]
  const int32_t *label; // [samples], -1 for none of the classes
  const T *centres;     // [classes * per_class, width], or its transpose where `columns`
  bool columns, normalised;
  Pooling pooling;
  T scale, sharpness;
  T most; // as ProxyTile has it

  int64_t centre_count() const { return classes * per_class; }
};

template <typename T> struct ProxyStatistics {
  T *others, *target, *total; // [samples]
  T *spread;                  // [classes], or null
  T *norms;                   // [centre_count()]
};

template <typename T> void proxy_forward(const ProxyProblem<T> &problem, ProxyStatistics<T> found);

// Gradients of the rows, added to zeros, and of the centres as they are stored; null for one not needed.
// `grad_spread` [classes] is null where there is none.
template <typename T>
void proxy_backward(const ProxyProblem<T> &problem, ProxyGrads<T> grads, const T *grad_spread, const T *norms,
                    T *grad_rows, T *grad_centres);

} // namespace fastdml
