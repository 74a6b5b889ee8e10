// 2^x as straight-line arithmetic that compilers vectorise. All of it is inlined by force: a copy that the
// linker shared between the instruction sets would run on processors that lack them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "rules/host_device.h"

namespace fastdml {

// 2^x for x clamped to the normal range, by 2^round(x) times the Taylor series of 2^f, |f| <= 1/2. The first
// term left out is below 6e-9 in float (degree 7) and 5e-18 in double (degree 13).
template <typename T> struct Exp2;

template <> struct Exp2<float> {
  FASTDML_HD static float of(float x) {
    x = x < 127.0f ? x : 127.0f;
    x = x > -126.0f ? x : -126.0f;
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const float shifted = x + 12582912.0f;
    const float f = x - (shifted - 12582912.0f);
    float p = 1.525273380405984e-5f;
    p = p * f + 1.540353039338161e-4f;
    p = p * f + 1.333355814642844e-3f;
    p = p * f + 9.618129107628477e-3f;
    p = p * f + 5.550410866482158e-2f;
    p = p * f + 2.402265069591007e-1f;
    p = p * f + 6.931471805599453e-1f;
    p = p * f + 1.0f;
    int32_t bits, power;
    std::memcpy(&power, &shifted, 4);
    std::memcpy(&bits, &p, 4);
    bits += static_cast<int32_t>(static_cast<uint32_t>(power) << 23);
    std::memcpy(&p, &bits, 4);
    return p;
  }
};

template <> struct Exp2<double> {
  FASTDML_HD static double of(double x) {
    x = x < 1023.0 ? x : 1023.0;
    x = x > -1022.0 ? x : -1022.0;
    const double shifted = x + 6755399441055744.0; // 1.5 * 2^52
    const double f = x - (shifted - 6755399441055744.0);
    const double y = f * 0.693147180559945309417232;
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
    p = p * y + 1.0;
    int64_t bits, power;
    std::memcpy(&power, &shifted, 8);
    std::memcpy(&bits, &p, 8);
    bits += static_cast<int64_t>(static_cast<uint64_t>(power) << 52);
    std::memcpy(&p, &bits, 8);
    return p;
  }
};

// The scalar functions that a rule's epilogue calls.
template <typename T> struct HostMath {
  FASTDML_HD T exp(T x) const { return std::exp(x); }
  FASTDML_HD T log(T x) const { return std::log(x); }
  FASTDML_HD T log1p(T x) const { return std::log1p(x); }
};

} // namespace fastdml
