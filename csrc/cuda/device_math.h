// The scalar functions that kernels and the terms of a loss call.
#pragma once

#include <cmath>

#include "rules/host_device.h"

namespace fastdml::cuda {

template <typename T> struct DeviceMath;

template <> struct DeviceMath<float> {
  FASTDML_HD float exp2(float x) const { return ::exp2f(x); }
  FASTDML_HD float exp(float x) const { return ::expf(x); }
  FASTDML_HD float log(float x) const { return ::logf(x); }
  FASTDML_HD float log1p_unit(float x) const { return ::log1pf(x); }
  FASTDML_HD float sqrt(float x) const { return ::sqrtf(x); }
  FASTDML_HD float fma(float a, float b, float c) const { return ::fmaf(a, b, c); }
};

template <> struct DeviceMath<double> {
  FASTDML_HD double exp2(double x) const { return ::exp2(x); }
  FASTDML_HD double exp(double x) const { return ::exp(x); }
  FASTDML_HD double log(double x) const { return ::log(x); }
  FASTDML_HD double log1p_unit(double x) const { return ::log1p(x); }
  FASTDML_HD double sqrt(double x) const { return ::sqrt(x); }
  FASTDML_HD double fma(double a, double b, double c) const { return ::fma(a, b, c); }
};

} // namespace fastdml::cuda
