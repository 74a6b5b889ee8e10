#include "cuda/pair_family.h"
#include "rules/exponential.h"

FASTDML_PAIR_FAMILY(Exponential)
