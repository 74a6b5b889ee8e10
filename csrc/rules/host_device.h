#pragma once

// A rule is plain arithmetic that both the host compiler and nvcc read.
#ifdef __CUDACC__
#define FASTDML_HD __host__ __device__ __forceinline__
#else
#define FASTDML_HD inline __attribute__((always_inline))
#endif
