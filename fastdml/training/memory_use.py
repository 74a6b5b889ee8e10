"""How much memory a run takes, by part."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml import resident_memory
from fastdml.training.run_checkpoints import Parts


def start_counting(device: torch.device) -> int:
    """The bytes in use now; the most that is used is counted from here. 0 where they are not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not resident_memory.can_measure():
        return 0
    resident_memory.release_freed_memory()
    return resident_memory.reset_high_water()


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use: of a GPU, or of this process on a CPU; 0 where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_memory.high_water() if resident_memory.can_measure() else 0


def memory_by_part(parts: Parts, resident: int, device: torch.device) -> dict[str, int]:
    """Bytes of "network", "optimiser" and "loss", and, where it can be measured, of "one step".

    Args:
        parts: the network and the loss were there before training, the optimiser's state was not.
        resident: of `start_counting`.
        device: of the run.
    """
    kept = [value for state in parts.optimiser.state.values() for value in state.values()]
    optimiser = sum(value.nbytes for value in kept if isinstance(value, Tensor))
    found = {
        "network": sum(value.nbytes for value in parts.model.state_dict().values()),
        "optimiser": optimiser,
        "loss": sum(value.nbytes for value in (*parts.loss.parameters(), *parts.loss.buffers())),
    }
    peak = peak_memory(device)
    return {**found, "one step": max(0, peak - resident - optimiser)} if resident and peak else found
