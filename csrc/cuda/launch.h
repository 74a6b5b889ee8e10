// Launches a kernel and reports what went wrong with it.
#pragma once

#include <cuda_runtime.h>

#include "cuda/launch_check.h"

namespace fastdml::cuda {

// Runs kernel(arguments...) on `grid` blocks of `threads` threads; an empty grid is no work.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, cudaStream_t stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0)
    return;
  kernel<<<grid, threads, 0, stream>>>(static_cast<Parameters>(arguments)...);
  check_launch();
}

} // namespace fastdml::cuda
