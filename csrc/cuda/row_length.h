// How sorted rows are stored where they are compared at length one: fp32 and fp64 rows are divided by their
// norm. fp16 and bf16 rows would lose to that division what mining needs, so they are brought to a length in
// [1, 2) by a power of two, which is exact, and their products are divided by the lengths in fp32.
#pragma once

#include <cstdint>
#include <cstring>

#include "rules/host_device.h"

namespace fastdml::cuda {

constexpr double smallest_norm = 1e-12; // as torch.nn.functional.normalize

template <typename Input> constexpr bool keeps_length = sizeof(Input) == 2;

template <typename T> FASTDML_HD bool is_short(T norm) { return norm < static_cast<T>(smallest_norm); }

// What a row with this norm is divided by; NaN stays.
template <typename T> FASTDML_HD T divisor_of(T norm) {
  return is_short(norm) ? static_cast<T>(smallest_norm) : norm;
}

FASTDML_HD uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
FASTDML_HD float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// The power of two that brings a row of this divisor to a length in [1, 2). Divisors are normal numbers, for
// the sum of squares did not overflow; what is not finite is poisoned elsewhere.
FASTDML_HD float power_for(float divisor) {
  const uint32_t exponent = bits_of(divisor) >> 23 & 0xffu;
  return from_bits((exponent < 253u ? 254u - exponent : 1u) << 23);
}

// The length of a row that was stored with its length: the divisor's fraction in [1, 2).
FASTDML_HD float kept_length(float norm) {
  return from_bits((bits_of(divisor_of(norm)) & 0x007fffffu) | 0x3f800000u);
}

} // namespace fastdml::cuda
