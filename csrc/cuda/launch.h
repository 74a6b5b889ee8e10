// Launches a kernel and reports what went wrong with it.
#pragma once

#include <cuda_runtime.h>

namespace fastdml::cuda {

// Throws what the last launch left; apart, for torch's header of the check takes longer to compile than most
// kernels.
void check_launch();

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
