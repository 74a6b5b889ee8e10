"""Settings of a run from TOML files, recipes and ``key=value`` words, merged into one TrainConfig."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import fastdml
from fastdml.training.catalogue import find_loss
from fastdml.training.config import ConfigError, TrainConfig, known_settings
from fastdml.training.config_checks import CHOICES, TABLES, WORDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def merge_settings(
    file: str | Path | None = None,
    given: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    resumed: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The settings of a run, each from the last of these that has it.

    Args:
        resumed: those of a run that goes on, all of them; None: the defaults, and as many samples a class as
            suits the loss.
        file: path of a TOML file or name of a recipe, see :func:`find_settings`.
        given: settings by name.
        assignments: ``key=value``, see :func:`parse_assignments`.

    Raises:
        ConfigError: a file that is not there, or a setting or an option of the loss that does not exist or
            cannot work.
    """
    settings = dict(resumed or {})
    settings.update({} if file is None else read_toml(find_settings(file)))
    settings.update(given or {})
    settings = parse_assignments(assignments, settings)
    entry = find_loss(str(settings.get("loss", TrainConfig.loss)))
    config = TrainConfig(**{"samples_per_class": entry.samples_per_class, **settings})
    entry.check(config.loss_options)
    return config


def recipe_paths() -> dict[str, Path]:
    """The TOML files of the recipes, by name: in an installed package, in a checkout beside it."""
    package = Path(fastdml.__file__).parent
    installed = package / "recipe_files"
    folder = installed if installed.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_settings(name: str | Path) -> Path:
    """The file of that path, or the recipe of that name; raises ConfigError with the nearest recipes."""
    path = Path(name)
    if path.is_file():
        return path
    recipes = recipe_paths()
    if str(name) in recipes:
        return recipes[str(name)]
    near = get_close_matches(path.stem, recipes)
    raise ConfigError(
        f"config must be a TOML file or one of the recipes {', '.join(recipes)}, got {str(name)!r}"
        + (f"; near it: {', '.join(near)}" if near else "")
    )


def read_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file: keys are those of TrainConfig, ``loss_options`` and such are tables.

    Raises:
        ConfigError: a file that cannot be read, that is damaged (with the line), or has unknown keys.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must be a TOML file of settings: {error}") from error
    values = known_settings(values, str(path))
    if isinstance(values.get("image_size"), int) and not isinstance(values["image_size"], bool):
        values["image_size"] = str(values["image_size"])  # a side may be written as a number
    return values


def parse_assignments(
    assignments: Iterable[str], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings with those of ``key=value`` words over them; what was given is not changed.

    Values are TOML; what is not is a text, and ``none`` is no value. Where the setting is a text, quotes may
    be left out. ``loss_options.alpha=2`` sets one option, ``loss_options={}`` all of them.

    Raises:
        ConfigError: a word without =, or a setting that does not exist, with the nearest.
    """
    merged = copy.deepcopy(dict(settings or {}))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        name, *parts = key.strip().split(".")
        if not equals:
            raise ConfigError(f"set must be key=value, as batch=256, got {assignment!r}")
        known_settings({name: text}, "set")
        if not parts:
            merged[name] = _read_text(text) if name in (*WORDS, *CHOICES) else parse_value(text)
            continue
        if name not in TABLES:
            raise ConfigError(f"set can have a point after {' or '.join(TABLES)} alone, got {key!r}")
        table = merged.setdefault(name, {})
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(
                    f"set needs a table before the last point, got {key!r} where {part} is none"
                )
        table[parts[-1]] = parse_value(text)
    return merged


def parse_value(text: str) -> Any:
    """A value of TOML, else a text; ``none`` is None."""
    text = text.strip()
    if text in ("none", "None"):
        return None
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _read_text(text: str) -> Any:
    found = parse_value(text)
    return found if found is None or isinstance(found, str) else text.strip()
