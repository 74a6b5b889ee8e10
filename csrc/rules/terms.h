// What the pair engine asks of a loss: what one pair adds to the sums of its anchor. fastdml/rules/terms.py
// states the same in PyTorch terms and holds the meaning of every constant.
//
// Terms are a struct template over the accumulator type T with
//
//   static constexpr bool reads_least;       whether positive_row reads the least close positive
//   static Terms from_constants(const double *);
//   Pair<T> negative_terms(c, row, math);    what a negative adds to negative_sum and negative_second
//   T negative_weight(c, row, math);         derivative of the first by c
//   T positive_row(row, least, most, negative_sum, math);  the row of the positives
//   Pair<T> positive_terms(c, row, math);    what a positive adds to positive_sum and positive_second
//   Pair<T> positive_weights(c, row, math);  derivatives of both by c
//
// c is a closeness, row one number of the anchor. All but positive_row are straight-line arithmetic, which
// compilers vectorise, and are also evaluated at pairs that do not count, whose values are dropped: at |c|
// beyond its bounds by rounding, and at infinities. `math` has exp2, exp, log and log1p_unit(u), which is
// log(1 + u) for 0 <= u <= 1.
#pragma once

#include "rules/host_device.h"

namespace fastdml {

template <typename T> struct Pair {
  T first, second;
};

// log(1 + e^x) and its derivative, with one exponential.
template <typename T, typename Math> FASTDML_HD Pair<T> softplus_and_sigmoid(T x, const Math &math) {
  const T decay = math.exp(x > T(0) ? -x : x); // e^-|x|
  const T share = T(1) / (T(1) + decay);
  return {(x > T(0) ? x : T(0)) + math.log1p_unit(decay), x > T(0) ? share : decay * share};
}

} // namespace fastdml
