// Products of blocks by torch's own matrix product (its BLAS), on raw pointers.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cstdint>
#include <type_traits>

#include "torch_check.h"

namespace fastdml {

// A strided matrix that borrows its memory. The shim below it skips the dispatcher, so a worker thread needs
// none of the caller's thread-local state (autograd, inference mode).
class Matrix {
public:
  template <typename T>
  Matrix(const T *data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride = 1) {
    const int64_t sizes[2] = {rows, columns}, strides[2] = {row_stride, column_stride};
    const int32_t dtype = std::is_same_v<T, double> ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    FASTDML_CHECK_TORCH(aoti_torch_create_tensor_from_blob(const_cast<T *>(data), 2, sizes, strides, 0, dtype,
                                                           aoti_torch_device_type_cpu(), 0, &handle_));
  }
  ~Matrix() { aoti_torch_delete_tensor_object(handle_); }
  Matrix(const Matrix &) = delete;
  Matrix &operator=(const Matrix &) = delete;

  AtenTensorHandle get() const { return handle_; }

private:
  AtenTensorHandle handle_ = nullptr;
};

// out = a b
inline void product(const Matrix &out, const Matrix &a, const Matrix &b) {
  FASTDML_CHECK_TORCH(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

// out += a b
inline void add_product(const Matrix &out, const Matrix &a, const Matrix &b) {
  FASTDML_CHECK_TORCH(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

} // namespace fastdml
