// Stands in for csrc/cuda/matrix_product.h: plain loops, summing in the dtype of the product, in several
// parts as every fast product does.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <stdexcept>

namespace fastdml::cuda {

using ProductTensor = torch::stable::Tensor;

template <typename T, typename Input>
void emulate_product(const ProductTensor &out, const ProductTensor &a, const ProductTensor &b, bool add) {
  T *to = static_cast<T *>(out.mutable_data_ptr());
  const Input *left = static_cast<const Input *>(a.const_data_ptr());
  const Input *right = static_cast<const Input *>(b.const_data_ptr());
  if (out.size(0) != a.size(0) || out.size(1) != b.size(1) || a.size(1) != b.size(0))
    throw std::runtime_error("emulation: shapes of a product do not fit");
  for (int64_t i = 0; i < out.size(0); ++i)
    for (int64_t j = 0; j < out.size(1); ++j) {
      T &sum = to[i * out.stride(0) + j * out.stride(1)], parts[16] = {add ? sum : T(0)};
      const Input *x = left + i * a.stride(0), *y = right + j * b.stride(1);
      const int64_t x_step = a.stride(1), y_step = b.stride(0), depth = a.size(1);
      for (int64_t k = 0; k < depth; ++k)
        parts[k % 16] += static_cast<T>(x[k * x_step]) * static_cast<T>(y[k * y_step]);
      for (int k = 1; k < 16; ++k)
        parts[0] += parts[k];
      sum = parts[0];
    }
}

inline void emulate_product(const ProductTensor &out, const ProductTensor &a, const ProductTensor &b,
                            bool add) {
  using torch::headeronly::ScalarType;
  if (a.scalar_type() != b.scalar_type() || (add && a.scalar_type() != out.scalar_type()))
    throw std::runtime_error("emulation: dtypes of a product do not fit");
  switch (a.scalar_type()) {
  case ScalarType::Double:
    return emulate_product<double, double>(out, a, b, add);
  case ScalarType::Float:
    return emulate_product<float, float>(out, a, b, add);
  case ScalarType::Half:
    return emulate_product<float, torch::headeronly::Half>(out, a, b, add);
  default:
    return emulate_product<float, torch::headeronly::BFloat16>(out, a, b, add);
  }
}

inline void product(const ProductTensor &out, const ProductTensor &a, const ProductTensor &b) {
  emulate_product(out, a, b, false);
}

inline void add_product(const ProductTensor &out, const ProductTensor &a, const ProductTensor &b) {
  emulate_product(out, a, b, true);
}

} // namespace fastdml::cuda
