// Stands in for csrc/cuda/launch.h where the kernels are compiled as plain C++: runs a grid on the host, one
// block after the other, each thread of a block as a fiber that hands over at barriers and shuffles.
//
// Stricter than a device: a shuffle that a lane of the warp never reaches, or a barrier that a thread never
// reaches, is an error. FASTDML_EMULATION_REVERSE=1 runs blocks and threads last to first, which shows what
// depends on their order.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cuda/stream.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int lanes = 32;
constexpr size_t stack_bytes = 64 << 10;

// Opens once all expected fibers have arrived.
struct Barrier {
  int expected = 0, arrived = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  int size = 0;
  alignas(
      16) unsigned char slots[2][lanes][16]; // shuffles take turns, so a late reader still finds its value
};

struct Fiber {
  ucontext_t start;
  jmp_buf place;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  bool is_started, is_done;
  const Barrier *waits_for;
  unsigned generation; // of that barrier, when this fiber arrived
  int turn;
  unsigned index;
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  Barrier block;
  Fiber *running = nullptr;
  jmp_buf scheduler;
  std::function<void()> body;
};
inline Machine machine;

// Not inlined, so that setjmp disturbs nobody else's registers.
__attribute__((noinline)) inline void wait_at(Barrier &barrier) {
  Fiber &self = *machine.running;
  self.generation = barrier.generation;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  self.waits_for = &barrier;
  if (!_setjmp(self.place))
    _longjmp(machine.scheduler, 1);
}

inline void enter() {
  machine.body();
  machine.running->is_done = true;
  _longjmp(machine.scheduler, 1);
}

// Runs the fiber until it waits or ends.
__attribute__((noinline)) inline void resume(Fiber &fiber) {
  machine.running = &fiber;
  threadIdx.x = fiber.index;
  fiber.waits_for = nullptr;
  if (_setjmp(machine.scheduler))
    return;
  if (fiber.is_started)
    _longjmp(fiber.place, 1);
  fiber.is_started = true;
  setcontext(&fiber.start);
}

inline void run_block(int threads, bool reverse) {
  machine.warps.assign((threads + lanes - 1) / lanes, Warp());
  for (int w = 0; w < static_cast<int>(machine.warps.size()); ++w)
    machine.warps[w].barrier.expected = std::min(lanes, threads - w * lanes);
  machine.block = Barrier{threads};
  while (static_cast<int>(machine.fibers.size()) < threads)
    machine.fibers.push_back(std::make_unique<Fiber>());
  for (int t = 0; t < threads; ++t) {
    Fiber &fiber = *machine.fibers[t];
    fiber.is_started = fiber.is_done = false;
    fiber.waits_for = nullptr;
    fiber.turn = 0;
    fiber.index = static_cast<unsigned>(t);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = stack_bytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
  }
  int done = 0;
  while (done < threads) {
    bool moved = false;
    for (int k = 0; k < threads; ++k) {
      Fiber &fiber = *machine.fibers[reverse ? threads - 1 - k : k];
      if (fiber.is_done || (fiber.waits_for && fiber.waits_for->generation == fiber.generation))
        continue;
      resume(fiber);
      moved = true;
      if (fiber.is_done)
        ++done;
    }
    if (!moved)
      throw std::runtime_error("emulation: threads wait for others that never come");
  }
}

} // namespace emulation

inline void __syncthreads() { emulation::wait_at(emulation::machine.block); }

namespace emulation {

inline Warp &running_warp() { return machine.warps[machine.running->index / lanes]; }
inline int running_lane() { return static_cast<int>(machine.running->index % lanes); }

// Shows a value of every lane to the others, and returns a place for each of them.
template <typename T> auto &exchange(const T &value) {
  Warp &warp = running_warp();
  auto &slots = warp.slots[machine.running->turn];
  machine.running->turn ^= 1;
  std::memcpy(slots[running_lane()], &value, sizeof(T));
  wait_at(warp.barrier);
  return slots;
}

template <typename T> T value_of(const unsigned char (&slot)[16]) {
  T value;
  std::memcpy(&value, slot, sizeof(T));
  return value;
}

} // namespace emulation

inline void __syncwarp() { emulation::wait_at(emulation::running_warp().barrier); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::value_of<T>(emulation::exchange(value)[emulation::running_lane() ^ mask]);
}

template <typename T> T __shfl_sync(unsigned, T value, int from) {
  return emulation::value_of<T>(emulation::exchange(value)[from]);
}

// Of warps that are whole.
inline unsigned __ballot_sync(unsigned, bool vote) {
  const auto &slots = emulation::exchange(vote);
  unsigned votes = 0;
  for (int lane = 0; lane < emulation::lanes; ++lane)
    votes |= static_cast<unsigned>(emulation::value_of<bool>(slots[lane])) << lane;
  return votes;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

namespace fastdml::cuda {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, Stream, Arguments... arguments) {
  const char *order = std::getenv("FASTDML_EMULATION_REVERSE");
  const bool reverse = order && *order == '1';
  gridDim = grid;
  blockDim = dim3(static_cast<unsigned>(threads));
  emulation::machine.body = [=] { kernel(static_cast<Parameters>(arguments)...); };
  const int64_t blocks = static_cast<int64_t>(grid.x) * grid.y;
  for (int64_t k = 0; k < blocks; ++k) {
    const int64_t block = reverse ? blocks - 1 - k : k;
    blockIdx = dim3(static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x));
    emulation::run_block(threads, reverse);
  }
}

} // namespace fastdml::cuda
