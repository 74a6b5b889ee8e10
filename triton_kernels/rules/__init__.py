"""The rules' device functions, by the name that a rule bears everywhere."""

from fastdml.triton_kernels.rules import multi_similarity
from fastdml.triton_kernels.rules.base import PairRuleKernels

PAIR_RULES: dict[str, PairRuleKernels] = {"multi_similarity": multi_similarity.KERNELS}

__all__ = ["PAIR_RULES", "PairRuleKernels"]
