#include "cuda/pair_family.h"
#include "rules/info_nce.h"

FASTDML_PAIR_FAMILY(InfoNCE)
