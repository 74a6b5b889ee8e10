"""What the settings of a run must be, each by itself and among each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastdml.errors import InputError
from fastdml.noise import KINDS

if TYPE_CHECKING:
    from fastdml.training.config import TrainConfig


class ConfigError(InputError):
    """A setting of a run that cannot work; the message names it, what it was and what is accepted."""


CHOICES: Mapping[str, Sequence[str]] = {
    "fit": ("crop", "stretch"),
    "on_unreadable": ("stop", "skip"),
    "freeze": ("nothing", "batch-norm", "backbone"),
    "optimiser": ("adamw", "adam", "sgd"),
    "schedule": ("cosine", "constant", "step"),
    "precision": ("fp32", "bf16", "fp16"),
    "noise_kind": KINDS,
}
LEAST: Mapping[str, int] = {
    "memory": 0,
    "steps": 1,
    "chunk": 1,
    "samples_per_class": 2,
    "categories_per_batch": 0,
    "embedding_dim": 1,
    "network_width": 1,
    "decay_every": 1,
    "warmup_steps": 0,
    "workers": 0,
    "evaluations": 0,
    "seed": 0,
    "checkpoint_every": 0,
    "teacher_epochs": 1,
    "teacher_rounds": 0,
}
ABOVE_ZERO = ("seconds", "learning_rate", "head_rate", "center_rate", "decay_factor", "temperature")
WORDS = ("data", "layout", "image_size", "loss", "network", "weights", "backend", "device")
SWITCHES = ("repeat_images", "augment", "tensorboard", "distill")
TABLES = ("loss_options", "network_options")


def check(config: TrainConfig) -> None:
    """Raises ConfigError where a setting cannot work."""
    _check_kinds(config)
    for name, lowest in LEAST.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise ConfigError(f"{name} must be at least {lowest}, got {value}")
    for name, accepted in CHOICES.items():
        if getattr(config, name) not in accepted:
            raise ConfigError(f"{name} must be one of {', '.join(accepted)}, got {getattr(config, name)!r}")
    for name in ABOVE_ZERO:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            absent = "None or " if type(config).__dataclass_fields__[name].default is None else ""
            raise ConfigError(f"{name} must be {absent}above 0, got {value}")
    if config.batch < 2 * config.samples_per_class or config.batch % config.samples_per_class:
        raise ConfigError(
            f"batch must be a multiple of samples_per_class ({config.samples_per_class}) that holds at "
            f"least two classes, got {config.batch}"
        )
    if config.chunk is not None and config.chunk > config.batch:
        raise ConfigError(f"chunk must be at most batch ({config.batch}), got {config.chunk}")
    if config.memory and config.memory < config.batch:
        raise ConfigError(f"memory must be 0 or at least batch ({config.batch}), got {config.memory}")
    if not config.weight_decay >= 0:
        raise ConfigError(f"weight_decay must be at least 0, got {config.weight_decay}")
    if not 0 <= config.noise < 1:
        raise ConfigError(f"noise must be a share from 0 to below 1, got {config.noise}")
    if not 0 <= config.trust <= 1:
        raise ConfigError(f"trust must be a probability from 0 to 1, got {config.trust}")
    if config.image_size is not None:
        size_of(config.image_size)


def size_of(text: str) -> tuple[int, int]:
    """Height and width of "224" or "256x128"."""
    parts = text.lower().split("x")
    if not (1 <= len(parts) <= 2 and all(part.isdecimal() and int(part) > 0 for part in parts)):
        raise ConfigError(f"image_size must be a side or height and width, as 224 or 256x128, got {text!r}")
    return int(parts[0]), int(parts[-1])


def _check_kinds(config: TrainConfig) -> None:
    kinds: list[tuple[str, Any, str]] = [
        *((name, str, "a text") for name in (*WORDS, *CHOICES)),
        *((name, bool, "true or false") for name in SWITCHES),
        *((name, Mapping, "a table") for name in TABLES),
        *((name, int, "a whole number") for name in (*LEAST, "batch")),
        *((name, (int, float), "a number") for name in (*ABOVE_ZERO, "weight_decay", "noise", "trust")),
    ]
    for name, accepted, described in kinds:
        value: Any = getattr(config, name)
        optional = type(config).__dataclass_fields__[name].default is None
        if (value is None and optional) or (isinstance(value, accepted) and _right_bool(value, accepted)):
            continue
        raise ConfigError(f"{name} must be {described}{' or absent' if optional else ''}, got {value!r}")


def _right_bool(value: Any, accepted: Any) -> bool:
    """Whether truth is not taken for a number."""
    return accepted is bool or not isinstance(value, bool)
