// The kernels of the instruction set that this processor runs.
#include "cpu/isa.h"
#include "cpu/pair_kernels.h"

#define FASTDML_DECLARE(isa)                                                                                 \
  namespace isa {                                                                                            \
  template <typename T> const PairKernels<T> *pair_kernels(const char *terms, bool selects);                 \
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

template <typename T> const PairKernels<T> *pair_kernels_for_this_cpu(const char *terms, bool selects) {
#ifdef __x86_64__
  if (isa() == Isa::avx512)
    return avx512::pair_kernels<T>(terms, selects);
  if (isa() == Isa::avx2)
    return avx2::pair_kernels<T>(terms, selects);
#endif
  return baseline::pair_kernels<T>(terms, selects);
}
template const PairKernels<float> *pair_kernels_for_this_cpu<float>(const char *, bool);
template const PairKernels<double> *pair_kernels_for_this_cpu<double>(const char *, bool);

} // namespace fastdml
