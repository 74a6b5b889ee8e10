// Which of the compiled instruction sets this processor runs.
#include "cpu/pair_kernels.h"

#define FASTDML_DECLARE(isa)                                                                                 \
  namespace isa {                                                                                            \
  template <typename T> const PairKernels<T> &pair_kernels(PairRule rule);                                   \
  }

namespace fastdml {

FASTDML_DECLARE(baseline)
#ifdef __x86_64__
FASTDML_DECLARE(avx2)
FASTDML_DECLARE(avx512)
#endif

namespace {

enum class Isa { baseline, avx2, avx512 };

Isa detect() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa isa() {
  static const Isa found = detect();
  return found;
}

} // namespace

template <typename T> const PairKernels<T> &pair_kernels_for_this_cpu(PairRule rule) {
#ifdef __x86_64__
  if (isa() == Isa::avx512)
    return avx512::pair_kernels<T>(rule);
  if (isa() == Isa::avx2)
    return avx2::pair_kernels<T>(rule);
#endif
  return baseline::pair_kernels<T>(rule);
}
template const PairKernels<float> &pair_kernels_for_this_cpu<float>(PairRule);
template const PairKernels<double> &pair_kernels_for_this_cpu<double>(PairRule);

const char *instruction_set() {
  switch (isa()) {
  case Isa::avx512:
    return "avx512";
  case Isa::avx2:
    return "avx2";
  case Isa::baseline:
    break;
  }
  return "baseline";
}

} // namespace fastdml
