// What the lanes of a warp do together, and reads and writes of several elements at once.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace fastdml::cuda {

constexpr int warp_size = 32;
constexpr unsigned whole_warp = 0xffffffffu;

// Every lane gets the same bits: in each step both partners add the same two numbers.
template <typename T> __device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(whole_warp, value, offset);
  return value;
}

// A NaN never wins.
template <typename T> __device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(whole_warp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// `length` elements that move as one; their address is a multiple of their size.
template <typename T, int length> struct alignas(sizeof(T) * length) Pack {
  T at[length];
};

template <int length, typename T> __device__ __forceinline__ Pack<T, length> load(const T *address) {
  return *reinterpret_cast<const Pack<T, length> *>(address);
}

template <int length, typename T>
__device__ __forceinline__ void store(T *address, const Pack<T, length> &pack) {
  *reinterpret_cast<Pack<T, length> *>(address) = pack;
}

} // namespace fastdml::cuda
