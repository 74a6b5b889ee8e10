"""Every loss under one protocol, in one table: `fastdml compare`. Needs the extras `train` and `evaluate`."""

from fastdml.training.comparison.cells import Cell
from fastdml.training.comparison.compare import Outcome, compare
from fastdml.training.comparison.protocol import Protocol
from fastdml.training.comparison.results import write_results

__all__ = ["Cell", "Outcome", "Protocol", "compare", "write_results"]
