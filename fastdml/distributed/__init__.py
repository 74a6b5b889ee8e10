"""Losses over the ranks of torch.distributed."""

from fastdml.distributed.checkpoint import (
    full_optimizer_state_dict,
    full_state_dict,
    load_full_optimizer_state_dict,
    load_full_state_dict,
)
from fastdml.distributed.global_loss import GlobalBatchLoss
from fastdml.distributed.sharded_centers import ShardedCenters, shard_centers

__all__ = [
    "GlobalBatchLoss",
    "ShardedCenters",
    "full_optimizer_state_dict",
    "full_state_dict",
    "load_full_optimizer_state_dict",
    "load_full_state_dict",
    "shard_centers",
]
