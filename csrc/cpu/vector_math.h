// Elementary functions as straight-line arithmetic that compilers vectorise. All of it is inlined by force: a
// copy that the linker shared between the instruction sets would run on processors that lack them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "rules/host_device.h"

namespace fastdml {

template <typename T> struct VectorMath;

// In float, the first term that a series leaves out is below 6e-9 of its sum for 2^x and e^x (degree 7), and
// below 2e-9 for log(1 + u).
template <> struct VectorMath<float> {
  // 2^x for x clamped to the normal range, by 2^round(x) times the Taylor series of 2^f, |f| <= 1/2.
  FASTDML_HD float exp2(float x) const {
    x = x < 127.0f ? x : 127.0f;
    x = x > -126.0f ? x : -126.0f;
    return exp2_within(x);
  }

  // 2^x for x that is in the normal range.
  FASTDML_HD float exp2_within(float x) const {
    const float shifted = x + rounding;
    const float f = x - (shifted - rounding);
    float p = 1.525273380405984e-5f;
    p = p * f + 1.540353039338161e-4f;
    p = p * f + 1.333355814642844e-3f;
    p = p * f + 9.618129107628477e-3f;
    p = p * f + 5.550410866482158e-2f;
    p = p * f + 2.402265069591007e-1f;
    p = p * f + 6.931471805599453e-1f;
    p = p * f + 1.0f;
    return times_power(p, shifted);
  }

  // e^x for x clamped likewise: x = n log 2 + f, log 2 in two parts of which the first times n is exact.
  FASTDML_HD float exp(float x) const {
    x = x < 88.02f ? x : 88.02f;
    x = x > -87.33654f ? x : -87.33654f;
    const float shifted = x * 1.44269504088896f + rounding;
    const float n = shifted - rounding;
    const float f = (x - n * 0.693145751953125f) - n * 1.428606820309417e-6f;
    float p = 1.0f / 5040.0f;
    p = p * f + 1.0f / 720.0f;
    p = p * f + 1.0f / 120.0f;
    p = p * f + 1.0f / 24.0f;
    p = p * f + 1.0f / 6.0f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    return times_power(p, shifted);
  }

  // log(1 + u) for 0 <= u <= 1, by 2 artanh(u / (2 + u)).
  FASTDML_HD float log1p_unit(float u) const {
    const float s = u / (2.0f + u), z = s * s;
    float p = 1.0f / 15.0f;
    p = p * z + 1.0f / 13.0f;
    p = p * z + 1.0f / 11.0f;
    p = p * z + 1.0f / 9.0f;
    p = p * z + 1.0f / 7.0f;
    p = p * z + 1.0f / 5.0f;
    p = p * z + 1.0f / 3.0f;
    return 2.0f * s + 2.0f * s * z * p;
  }

  FASTDML_HD float log(float x) const { return std::log(x); }

private:
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, which the low bits of the sum hold.
  static constexpr float rounding = 12582912.0f;

  FASTDML_HD static float times_power(float p, float shifted) {
    int32_t bits, power;
    std::memcpy(&power, &shifted, 4);
    std::memcpy(&bits, &p, 4);
    bits += static_cast<int32_t>(static_cast<uint32_t>(power) << 23);
    std::memcpy(&p, &bits, 4);
    return p;
  }
};

// In double, what the series leave out is below 5e-18 of their sums (degree 13, and 35 in u / (2 + u)).
template <> struct VectorMath<double> {
  FASTDML_HD double exp2(double x) const {
    x = x < 1023.0 ? x : 1023.0;
    x = x > -1022.0 ? x : -1022.0;
    return exp2_within(x);
  }

  FASTDML_HD double exp2_within(double x) const {
    const double shifted = x + rounding;
    return times_power(exp_series((x - (shifted - rounding)) * 0.693147180559945309417232), shifted);
  }

  FASTDML_HD double exp(double x) const {
    x = x < 709.0 ? x : 709.0;
    x = x > -708.3964185322641 ? x : -708.3964185322641;
    const double shifted = x * 1.4426950408889634074 + rounding;
    const double n = shifted - rounding;
    return times_power(exp_series((x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10),
                       shifted);
  }

  FASTDML_HD double log1p_unit(double u) const {
    const double s = u / (2.0 + u), z = s * s;
    double p = 1.0 / 35.0;
    p = p * z + 1.0 / 33.0;
    p = p * z + 1.0 / 31.0;
    p = p * z + 1.0 / 29.0;
    p = p * z + 1.0 / 27.0;
    p = p * z + 1.0 / 25.0;
    p = p * z + 1.0 / 23.0;
    p = p * z + 1.0 / 21.0;
    p = p * z + 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    return 2.0 * s + 2.0 * s * z * p;
  }

  FASTDML_HD double log(double x) const { return std::log(x); }

private:
  static constexpr double rounding = 6755399441055744.0; // 1.5 * 2^52

  FASTDML_HD static double exp_series(double y) {
    double p = 1.0 / 6227020800.0;
    p = p * y + 1.0 / 479001600.0;
    p = p * y + 1.0 / 39916800.0;
    p = p * y + 1.0 / 3628800.0;
    p = p * y + 1.0 / 362880.0;
    p = p * y + 1.0 / 40320.0;
    p = p * y + 1.0 / 5040.0;
    p = p * y + 1.0 / 720.0;
    p = p * y + 1.0 / 120.0;
    p = p * y + 1.0 / 24.0;
    p = p * y + 1.0 / 6.0;
    p = p * y + 0.5;
    p = p * y + 1.0;
    return p * y + 1.0;
  }

  FASTDML_HD static double times_power(double p, double shifted) {
    int64_t bits, power;
    std::memcpy(&power, &shifted, 8);
    std::memcpy(&bits, &p, 8);
    bits += static_cast<int64_t>(static_cast<uint64_t>(power) << 52);
    std::memcpy(&p, &bits, 8);
    return p;
  }
};

} // namespace fastdml
