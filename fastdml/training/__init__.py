"""Training an embedding and reporting on it. Needs the extra `train`."""

from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.experiment import RunResult, run_experiment
from fastdml.training.network import EmbeddingNetwork
from fastdml.training.records import NonFiniteLossError

__all__ = [
    "ConfigError",
    "EmbeddingNetwork",
    "NonFiniteLossError",
    "RunResult",
    "TrainConfig",
    "run_experiment",
]
