#include "cuda/launch_check.h"

#include <cuda_runtime.h>
#include <torch/csrc/stable/macros.h>

namespace fastdml::cuda {

void check_launch() { STD_CUDA_KERNEL_LAUNCH_CHECK(); }

} // namespace fastdml::cuda
