#include "cuda/pair_family.h"
#include "rules/hinge.h"

// Every column has a row and a second sum of its own.
template <> constexpr int fastdml::cuda::resident_tiles<fastdml::Hinge, float> = 1;

FASTDML_PAIR_FAMILY(Hinge)
