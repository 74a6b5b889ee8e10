// Products of matrices by torch's own matrix product (cuBLAS), in the accumulator dtype.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>

#include "torch_check.h"

namespace fastdml::cuda {

// out = a b, [n, k] by [k, m]; fp16 and bf16 matrices give an fp32 product.
inline void product(const torch::stable::Tensor &out, const torch::stable::Tensor &a,
                    const torch::stable::Tensor &b) {
  using torch::stable::Tensor;
  using torch::stable::detail::from;
  if (out.scalar_type() == a.scalar_type()) {
    FASTDML_CHECK_TORCH(aoti_torch_cuda_mm_out(out.get(), a.get(), b.get()));
    return;
  }
  std::array<StableIValue, 4> stack{from(a), from(b), from(out.scalar_type()), from(out)};
  FASTDML_CHECK_TORCH(torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]); // a second handle of `out`, released here
}

// out += a b, all of one dtype.
inline void add_product(const torch::stable::Tensor &out, const torch::stable::Tensor &a,
                        const torch::stable::Tensor &b) {
  FASTDML_CHECK_TORCH(aoti_torch_cuda_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

} // namespace fastdml::cuda
