// Registers the cuda operators.
#include <torch/csrc/stable/library.h>

#include "cuda/centroid_ops.h"
#include "cuda/pair_ops.h"
#include "cuda/proxy_ops.h"
#include "cuda/threshold_ops.h"

STABLE_TORCH_LIBRARY_IMPL(fastdml, CUDA, m) {
  m.impl("pair_forward_cuda", TORCH_BOX(&fastdml::cuda::pair_forward_op));
  m.impl("pair_backward_cuda", TORCH_BOX(&fastdml::cuda::pair_backward_op));
  m.impl("proxy_forward_cuda", TORCH_BOX(&fastdml::cuda::proxy_forward_op));
  m.impl("proxy_backward_cuda", TORCH_BOX(&fastdml::cuda::proxy_backward_op));
  m.impl("threshold_forward_cuda", TORCH_BOX(&fastdml::cuda::threshold_forward_op));
  m.impl("threshold_backward_cuda", TORCH_BOX(&fastdml::cuda::threshold_backward_op));
  m.impl("nearest_others_cuda", TORCH_BOX(&fastdml::cuda::nearest_others_op));
  m.impl("hinge_sums_cuda", TORCH_BOX(&fastdml::cuda::hinge_sums_op));
  m.impl("hinge_gradients_cuda", TORCH_BOX(&fastdml::cuda::hinge_gradients_op));
  m.impl("listed_distances_cuda", TORCH_BOX(&fastdml::cuda::listed_distances_op));
  m.impl("listed_gradients_cuda", TORCH_BOX(&fastdml::cuda::listed_gradients_op));
  m.impl("class_sums_cuda", TORCH_BOX(&fastdml::cuda::class_sums_op));
}
