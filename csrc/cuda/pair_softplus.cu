#include "cuda/pair_family.h"
#include "rules/softplus.h"

FASTDML_PAIR_FAMILY(Softplus)
