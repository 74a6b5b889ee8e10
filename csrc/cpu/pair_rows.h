// Rows as pairs compare them: gathered in sorted order from the embeddings, and their gradients scattered
// back.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace fastdml {

constexpr double smallest_norm = 1e-12; // as torch.nn.functional.normalize

// rows[k] = embeddings[order[k]], over its length where `normalise`; norms[k] = that length. The embeddings
// are float64, float32, bfloat16 or float16, of any strides.
template <typename T>
void gather_rows(const torch::stable::Tensor &embeddings, const int64_t *order, bool normalise, T *rows,
                 T *norms);

// out[order[k]] = gradient of the embedding from that of rows[k], plus poison[k].
template <typename T>
void scatter_gradients(const T *grads, const T *rows, const T *norms, const T *poison, const int64_t *order,
                       bool normalise, int64_t count, int64_t width, T *out);

} // namespace fastdml
