// Registers the emulated cuda operators for tensors on the host.
#include <torch/csrc/stable/library.h>

#include "cuda/pair_ops.h"
#include "cuda/proxy_ops.h"
#include "cuda/threshold_ops.h"

STABLE_TORCH_LIBRARY_IMPL(fastdml, CPU, m) {
  m.impl("pair_forward_cuda", TORCH_BOX(&fastdml::cuda::pair_forward_op));
  m.impl("pair_backward_cuda", TORCH_BOX(&fastdml::cuda::pair_backward_op));
  m.impl("proxy_forward_cuda", TORCH_BOX(&fastdml::cuda::proxy_forward_op));
  m.impl("proxy_backward_cuda", TORCH_BOX(&fastdml::cuda::proxy_backward_op));
  m.impl("threshold_forward_cuda", TORCH_BOX(&fastdml::cuda::threshold_forward_op));
  m.impl("threshold_backward_cuda", TORCH_BOX(&fastdml::cuda::threshold_backward_op));
}
