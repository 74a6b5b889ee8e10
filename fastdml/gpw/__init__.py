"""The pair weights of a loss, to look at: how hard it pulls each positive and pushes each negative.

General pair weighting (Wang et al., CVPR 2019, arXiv 1904.06627, section 3) compares losses by these alone.
"""

from fastdml.gpw.weights import PairWeights, weights

__all__ = ["PairWeights", "weights"]
