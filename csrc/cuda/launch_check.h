// Apart from the launch: torch's header of the check takes longer to compile than most kernels.
#pragma once

namespace fastdml::cuda {

// Throws what the last launch left.
void check_launch();

} // namespace fastdml::cuda
