// The check of torch's C interface under a name of our own: headers of torch 2.11 and before have another
// than later ones, and a source that forgot this file would compile with some of them only.
#pragma once

#include <torch/csrc/stable/library.h>

#ifdef STABLE_TORCH_ERROR_CODE_CHECK
#define FASTDML_CHECK_TORCH(call) STABLE_TORCH_ERROR_CODE_CHECK(call)
#else
#define FASTDML_CHECK_TORCH(call) TORCH_ERROR_CODE_CHECK(call)
#endif
