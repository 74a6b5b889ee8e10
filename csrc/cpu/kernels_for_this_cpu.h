// FASTDML_KERNELS_FOR_THIS_CPU(Kernels, name) defines name_for_this_cpu<T>(): the Kernels<T> that name<T>()
// gives in the namespace of the instruction set that this processor runs. Within namespace fastdml.
#pragma once

#include "cpu/isa.h"

#define FASTDML_DECLARE_KERNELS(isa, Kernels, name)                                                          \
  namespace isa {                                                                                            \
  template <typename T> const Kernels<T> &name();                                                            \
  }

#ifdef __x86_64__
#define FASTDML_KERNELS_FOR_THIS_CPU(Kernels, name)                                                          \
  FASTDML_DECLARE_KERNELS(baseline, Kernels, name)                                                           \
  FASTDML_DECLARE_KERNELS(avx2, Kernels, name)                                                               \
  FASTDML_DECLARE_KERNELS(avx512, Kernels, name)                                                             \
  template <typename T> const Kernels<T> &name##_for_this_cpu() {                                            \
    static const Isa isa = detect_isa();                                                                     \
    return isa == Isa::avx512 ? avx512::name<T>()                                                            \
           : isa == Isa::avx2 ? avx2::name<T>()                                                              \
                              : baseline::name<T>();                                                         \
  }
#else
#define FASTDML_KERNELS_FOR_THIS_CPU(Kernels, name)                                                          \
  FASTDML_DECLARE_KERNELS(baseline, Kernels, name)                                                           \
  template <typename T> const Kernels<T> &name##_for_this_cpu() { return baseline::name<T>(); }
#endif
