// The kernels of the instruction set that this processor runs.
#include "cpu/isa.h"
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

Isa isa() {
  static const Isa found = detect_isa();
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

} // namespace fastdml
