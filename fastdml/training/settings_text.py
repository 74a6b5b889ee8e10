"""Settings as text: the TOML that a person edits, and the command that repeats a run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from fastdml.training.catalogue import find_loss
from fastdml.training.config import TrainConfig
from fastdml.training.config_checks import TABLES
from fastdml.training.settings import parse_value

OPTIONS = (
    "data",
    "layout",
    "image_size",
    "fit",
    "on_unreadable",
    "workers",
    "loss",
    "memory",
    "steps",
    "seconds",
    "batch",
    "chunk",
    "samples_per_class",
    "repeat_images",
    "network",
    "weights",
    "freeze",
    "embedding_dim",
    "network_width",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "precision",
    "evaluations",
    "augment",
    "seed",
    "backend",
    "device",
    "checkpoint_every",
    "tensorboard",
    "noise",
    "noise_kind",
    "distill",
    "teacher_epochs",
    "teacher_rounds",
    "trust",
    "temperature",
)
"""The settings that have an option of their own in `fastdml train`; all others are set by ``--set``."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(config: TrainConfig) -> str:
    """All settings as TOML that `fastdml train --config` reads; those without a value are comments."""
    lines, tables = [], []
    for name, value in config.to_dict().items():
        if name in TABLES:
            tables += ["", f"[{name}]", *_lines(value)]
        else:
            lines += _lines({name: value})
    return "\n".join([*lines, *tables, ""])


def command_of(config: TrainConfig) -> str:
    """The `fastdml train` command that repeats a run: every setting that differs from its default."""
    words = ["fastdml", "train"]
    for name, value in config.to_dict().items():
        if name not in ("data", "loss", "seed") and value == _default(name, config):
            continue
        if name not in OPTIONS:
            for key, one in _parts(name, value):
                words += ["--set", f"{key}={_bare(one)}"]
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    return shlex.join(words)


def _default(name: str, config: TrainConfig) -> Any:
    if name == "samples_per_class":
        return find_loss(config.loss).samples_per_class
    setting = next(one for one in fields(config) if one.name == name)
    return setting.default_factory() if setting.default_factory is not MISSING else setting.default


def _parts(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value by its key, those of a table by keys with points where they have no point themselves."""
    if isinstance(value, Mapping) and value and all(_BARE_KEY.fullmatch(name) for name in value):
        for name, one in value.items():
            yield from _parts(f"{key}.{name}", one)
    else:
        yield key, value


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [
        f"# {name} = none" if value is None else f"{_key(name)} = {_toml(value)}"
        for name, value in values.items()
    ]


def _bare(value: Any) -> str:
    """A value as --set reads it, a text without quotes where it stays one."""
    if value is None:
        return "none"
    return value if isinstance(value, str) and parse_value(value) == value else _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return _quoted(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    # a text of JSON is one of TOML but for DEL
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
