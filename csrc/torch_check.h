// The check of torch's C interface under one name; headers before torch 2.11 lack it.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif
