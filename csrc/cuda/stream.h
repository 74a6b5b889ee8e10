// cudaStream_t for files that are compiled without the toolkit's headers.
#pragma once

struct CUstream_st;

namespace fastdml::cuda {

using Stream = CUstream_st *;

} // namespace fastdml::cuda
