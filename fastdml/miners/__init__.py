"""Miners that return their selection lazily: handed to a loss it is fused, unpacked it is listed.

They stand where pytorch-metric-learning's do: ``loss(embeddings, labels, miner(embeddings, labels))``.
"""

from fastdml.miners.base import Mined, MinedPairs, Miner
from fastdml.miners.batch_hard import BatchEasyHardMiner, BatchHardMiner
from fastdml.miners.multi_similarity import MultiSimilarityMiner
from fastdml.miners.pair_margin import PairMarginMiner
from fastdml.miners.triplet_margin import MinedTriplets, TripletMarginMiner

__all__ = [
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "Mined",
    "MinedPairs",
    "MinedTriplets",
    "Miner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "TripletMarginMiner",
]
