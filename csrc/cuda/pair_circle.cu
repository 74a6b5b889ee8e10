#include "cuda/pair_family.h"
#include "rules/circle.h"

FASTDML_PAIR_FAMILY(Circle)
