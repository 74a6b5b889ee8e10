// Weights as fp16: those of a block are lifted by one power of two into its range first, as they may be of
// any size.
#pragma once

#include <torch/headeronly/util/Half.h>

#include "cuda/stream.h"

#include <cstdint>

namespace fastdml::cuda {

// A matrix whose rows lie `stride` apart, a multiple of four elements.
template <typename T> struct Strided {
  T *data;
  int64_t stride;
  int rows, columns;
};

// out = weights times range[0], a power of two; range[1] becomes its inverse. `scratch` [rows].
void lift_to_half(Strided<const float> weights, float *scratch, float *range,
                  Strided<torch::headeronly::Half> out, Stream stream);

} // namespace fastdml::cuda
