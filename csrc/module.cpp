// The Python module fastdml._C: tells how the extension was built and what this processor can do.
#include "build_info.h"
#include "cpu/isa.h"

#include <pybind11/pybind11.h>
#include <string>

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["compiler"] = FASTDML_BUILD_COMPILER;
  info["standard"] = FASTDML_BUILD_STANDARD;
  info["flags"] = FASTDML_BUILD_FLAGS;
  info["torch"] = FASTDML_BUILD_TORCH;
  info["sources"] = FASTDML_BUILD_SOURCES;
  info["isas"] = FASTDML_BUILD_ISAS;
  return info;
}

py::dict cpu_features() {
  py::dict features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  features["avx"] = __builtin_cpu_supports("avx") != 0;
  features["avx2"] = __builtin_cpu_supports("avx2") != 0;
  features["fma"] = __builtin_cpu_supports("fma") != 0;
  features["avx512f"] = __builtin_cpu_supports("avx512f") != 0;
  features["avx512dq"] = __builtin_cpu_supports("avx512dq") != 0;
  features["avx512vl"] = __builtin_cpu_supports("avx512vl") != 0;
  features["avx512bw"] = __builtin_cpu_supports("avx512bw") != 0;
#endif
  return features;
}

std::string instruction_set() { return fastdml::isa_name(fastdml::detect_isa()); }

} // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "How the native extension of fastdml was built, and what this processor can do.";
  module.def("build_info", &build_info,
             "The compiler, its flags, the torch built against, the instruction sets.");
  module.def("cpu_features", &cpu_features,
             "Which of the features that fastdml asks about this processor has.");
  module.def("instruction_set", &instruction_set, "The instruction set whose kernels run here.");
}
