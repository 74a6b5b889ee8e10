#include "cpu/pair_rows.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>

namespace fastdml {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename F> void for_rows(int64_t rows, int64_t width, const F &f) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      f(i);
  });
}

template <typename T, typename Input>
void gather(const Tensor &embeddings, const int64_t *order, bool normalise, T *rows, T *norms) {
  const Input *data = static_cast<const Input *>(embeddings.const_data_ptr());
  const int64_t width = embeddings.size(1), row_stride = embeddings.stride(0),
                column_stride = embeddings.stride(1);
  for_rows(embeddings.size(0), width, [&](int64_t k) {
    const Input *given = data + order[k] * row_stride;
    T *row = rows + k * width;
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < width; ++j) {
      const T value = static_cast<T>(given[j * column_stride]);
      row[j] = value;
      squares += value * value;
    }
    norms[k] = std::sqrt(squares);
    if (!normalise)
      return;
    const T length = std::isnan(norms[k]) ? norms[k] : std::max(norms[k], static_cast<T>(smallest_norm));
    for (int64_t j = 0; j < width; ++j)
      row[j] /= length;
  });
}

} // namespace

template <typename T>
void gather_rows(const Tensor &embeddings, const int64_t *order, bool normalise, T *rows, T *norms) {
  switch (embeddings.scalar_type()) {
  case ScalarType::Double:
    return gather<T, double>(embeddings, order, normalise, rows, norms);
  case ScalarType::Float:
    return gather<T, float>(embeddings, order, normalise, rows, norms);
  case ScalarType::BFloat16:
    return gather<T, torch::headeronly::BFloat16>(embeddings, order, normalise, rows, norms);
  case ScalarType::Half:
    return gather<T, torch::headeronly::Half>(embeddings, order, normalise, rows, norms);
  default:
    STD_TORCH_CHECK(false, "embeddings must be float64, float32, bfloat16 or float16");
  }
}

// A unit row passes on the part of its gradient that turns it, over its length; rows too short to be
// normalised were divided by a constant.
template <typename T>
void scatter_gradients(const T *grads, const T *rows, const T *norms, const T *poison, const int64_t *order,
                       bool normalise, int64_t count, int64_t width, T *out) {
  for_rows(count, width, [&](int64_t k) {
    const T *grad = grads + k * width, *row = rows + k * width;
    T *result = out + order[k] * width;
    T along = 0, length = 1;
    if (normalise && norms[k] < static_cast<T>(smallest_norm)) {
      length = static_cast<T>(smallest_norm);
    } else if (normalise) {
      length = norms[k];
#pragma omp simd reduction(+ : along)
      for (int64_t j = 0; j < width; ++j)
        along += grad[j] * row[j];
    }
    for (int64_t j = 0; j < width; ++j)
      result[j] = (grad[j] - along * row[j]) / length + poison[k];
  });
}

#define FASTDML_INSTANTIATE(T)                                                                               \
  template void gather_rows<T>(const Tensor &, const int64_t *, bool, T *, T *);                             \
  template void scatter_gradients<T>(const T *, const T *, const T *, const T *, const int64_t *, bool,      \
                                     int64_t, int64_t, T *);
FASTDML_INSTANTIATE(float)
FASTDML_INSTANTIATE(double)

} // namespace fastdml
