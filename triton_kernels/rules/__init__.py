"""Terms as device functions, by the name that they bear everywhere."""

from fastdml.triton_kernels.rules import circle, exponential, hinge, info_nce, softplus
from fastdml.triton_kernels.rules.base import PairTermsKernels

PAIR_TERMS: dict[str, PairTermsKernels] = {}


def register(name: str, kernels: PairTermsKernels) -> PairTermsKernels:
    """Makes the twin of ``fastdml.rules.PairTerms`` known under the name that those bear.

    Raises:
        ValueError: other kernels bear the name.
    """
    if PAIR_TERMS.get(name, kernels) != kernels:
        raise ValueError(f"name must be new, got {name!r}, which other kernels bear")
    PAIR_TERMS[name] = kernels
    return kernels


def terms_named(name: str) -> PairTermsKernels:
    """The kernels of the terms of that name."""
    if name not in PAIR_TERMS:
        raise ValueError(
            f"terms must have Triton kernels, got {name!r}; known: {', '.join(sorted(PAIR_TERMS))}; "
            "fastdml.triton_kernels.rules.register adds to them"
        )
    return PAIR_TERMS[name]


register("circle", circle.KERNELS)
register("exponential", exponential.KERNELS)
register("hinge", hinge.KERNELS)
register("info_nce", info_nce.KERNELS)
register("softplus", softplus.KERNELS)

__all__ = ["PAIR_TERMS", "PairTermsKernels", "register", "terms_named"]
