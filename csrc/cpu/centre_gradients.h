// What is found of the centres of some classes at once: how far those of a class lie apart, what that adds to
// their gradients, and the way of gradients through the normalisation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/proxy_engine.h"

namespace fastdml {

template <typename T> class CentreGradients {
public:
  CentreGradients(const ProxyProblem<T> &problem, const ProxyKernels<T> &kernels, const T *inverse,
                  int64_t first_class, int64_t classes)
      : problem_(problem), kernels_(kernels), first_(first_class * problem.per_class),
        count_(classes * problem.per_class), classes_(classes), inverse_(inverse + first_),
        gram_(problem.per_class * problem.per_class), factors_(gram_.size()) {}

  // spread[c] = sum of sqrt(2 + 1e-5 - 2 <u_s, u_t>) over the pairs of centres of each class.
  void find_spread(T *spread) {
    load_units();
    for (int64_t c = 0; c < classes_; ++c) {
      find_gram(c);
      spread[c] = kernels_.spread(gram_.data(), problem_.per_class);
    }
  }

  // Completes gradients [C K, D], or their transpose, that lack what the spreads add, and from which what
  // points along each centre is not yet taken: along[k] = <gradient by the unit centre, unit centre>.
  void finish_with_spread(const T *grad_spread, const T *along, T *grad_centres) {
    load_units();
    const int64_t k = problem_.per_class, class_size = k * problem_.width;
    grads_.resize(units_.size());
    for (int64_t c = 0; c < classes_; ++c) {
      find_gram(c);
      kernels_.spread_factors(gram_.data(), k, grad_spread[c], inverse_ + c * k, along + first_ + c * k,
                              factors_.data());
      kernels_.mix(factors_.data(), units_.data() + c * class_size, k, problem_.width,
                   grads_.data() + c * class_size);
    }
    add_grads(grad_centres);
  }

  // The same where there is no spread.
  void finish(const T *along, T *grad_centres) {
    std::vector<T> factors(count_);
    for (int64_t k = 0; k < count_; ++k)
      factors[k] = inverse_[k] < T(1 / smallest_norm) ? along[first_ + k] * inverse_[k] * inverse_[k] : T(0);
    const int64_t outer = problem_.columns ? problem_.width : count_,
                  inner = problem_.columns ? count_ : problem_.width;
    for (int64_t i = 0; i < outer; ++i) {
      const int64_t at = problem_.columns ? i * problem_.centre_count() + first_ : (first_ + i) * inner;
      for (int64_t j = 0; j < inner; ++j)
        grad_centres[at + j] -= factors[problem_.columns ? j : i] * problem_.centres[at + j];
    }
  }

private:
  static constexpr int64_t together = 256;

  void load_units() {
    const int64_t width = problem_.width;
    units_.resize(count_ * width);
    for_each_stored([&](int64_t at, int64_t k, int64_t d) {
      units_[k * width + d] = problem_.centres[at] * inverse_[k];
    });
  }

  void add_grads(T *grad_centres) {
    const int64_t width = problem_.width;
    for_each_stored([&](int64_t at, int64_t k, int64_t d) { grad_centres[at] += grads_[k * width + d]; });
  }

  // Calls visit(place in memory, centre, dimension), a few rows at a time where centres are columns.
  template <typename Visit> void for_each_stored(const Visit &visit) const {
    if (problem_.columns)
      for (int64_t k = 0; k < count_; k += together)
        for (int64_t d = 0; d < problem_.width; ++d)
          for (int64_t j = k; j < std::min(k + together, count_); ++j)
            visit(d * problem_.centre_count() + first_ + j, j, d);
    else
      for (int64_t k = 0; k < count_; ++k)
        for (int64_t d = 0; d < problem_.width; ++d)
          visit((first_ + k) * problem_.width + d, k, d);
  }

  void find_gram(int64_t c) {
    const int64_t k = problem_.per_class;
    kernels_.gram(units_.data() + c * k * problem_.width, k, problem_.width, gram_.data());
  }

  const ProxyProblem<T> &problem_;
  const ProxyKernels<T> &kernels_;
  int64_t first_, count_, classes_;
  const T *inverse_;
  std::vector<T> units_, grads_, gram_, factors_; // units and their gradients [count, width]
};

} // namespace fastdml
