// Stands in for csrc/cuda/device_scope.h: the host has one device and no streams.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "cuda/stream.h"

namespace fastdml::cuda {

class DeviceScope {
public:
  explicit DeviceScope(const torch::stable::Tensor &) {}
  Stream stream() const { return nullptr; }
};

} // namespace fastdml::cuda
