// Where kernels run: the device of a tensor and torch's current stream there.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include "cuda/stream.h"
#include "torch_check.h"

namespace fastdml::cuda {

// Makes the device of a tensor current, for as long as this lives.
class DeviceScope {
public:
  explicit DeviceScope(const torch::stable::Tensor &tensor) : guard_(tensor.get_device_index()) {
    void *stream = nullptr;
    FASTDML_CHECK_TORCH(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<Stream>(stream);
  }

  Stream stream() const { return stream_; }

private:
  torch::stable::accelerator::DeviceGuard guard_;
  Stream stream_;
};

} // namespace fastdml::cuda
