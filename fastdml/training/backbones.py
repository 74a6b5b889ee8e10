"""The network of a run by the name in its settings, and again from what its weights file says of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastdml.data import Split
from fastdml.data.loading import load_chunks
from fastdml.data.split import reads_files
from fastdml.errors import InputError
from fastdml.recipes import freeze_batch_norm
from fastdml.training.backbone_head import (
    BackboneWithHead,
    FeatureNetwork,
    backbone_of,
    freeze,
    head_parameters,
)
from fastdml.training.backbone_sources import Backbone, efficientnet_lite0, imported, timm_backbone
from fastdml.training.checkpoint import load_weights, read_tensors
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.network import EmbeddingNetwork
from fastdml.training.views import shown_shape

__all__ = ["NetworkPlan", "head_parameters", "make_network", "network_description", "rebuild"]

_NAMED = inspect.Parameter.KEYWORD_ONLY
_TRIED = 2  # inputs that a network is tried with

NAMES = ("small", "head", "efficientnet-lite0", "timm:<name>", "<module>:<name>")
# Images or features that statistics are taken from: of those in memory, and of those that are files.
_IN_MEMORY, _READ = 10_000, 512

T = TypeVar("T")


@dataclass(frozen=True)
class NetworkPlan:
    """All that a network depends on apart from its numbers.

    Attributes:
        network: its name in the settings.
        options: its ``network_options``.
        shape: of one input: (C, H, W) of images, (F,) of features.
        embedding_dim: width of the embedding.
        width: ``network_width``.
    """

    network: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    embedding_dim: int
    width: int

    @property
    def is_imported(self) -> bool:
        """Whether making it runs code of somebody else, by its import path."""
        return ":" in self.network and not self.network.startswith("timm:")

    def describe(self) -> dict[str, str]:
        """As metadata of a weights file, from which `read` makes it again."""
        return {
            "network": self.network,
            "network_options": json.dumps(dict(self.options), sort_keys=True),
            "input_shape": json.dumps(self.shape),
            "embedding_dim": str(self.embedding_dim),
            "network_width": str(self.width),
        }

    @classmethod
    def read(cls, description: Mapping[str, str]) -> NetworkPlan:
        """From the metadata of a weights file; raises InputError where it does not hold a network."""
        try:
            return cls(
                description["network"],
                dict(json.loads(description["network_options"])),
                tuple(int(size) for size in json.loads(description["input_shape"])),
                int(description["embedding_dim"]),
                int(description["network_width"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the weights do not say what network they are of: {error!r}") from error


def make_network(config: TrainConfig, train: Split) -> nn.Module:
    """The network of a run, ready to be trained.

    Args:
        config: its settings from ``network`` to ``network_width``.
        train: the training images, for their shape and for pixel statistics, which a sample of them gives.

    Returns:
        From float32 images [N, C, H, W] in [0, 1], or features [N, F], to embeddings float32
        [N, embedding_dim], not normalised. On the CPU, its random numbers drawn from torch's generator.

    Raises:
        ConfigError: a setting that cannot work, or a package that is missing.
        CheckpointError: ``weights`` is damaged or of another network.
    """
    plan = _plan(config, train)
    model = _build(plan, pretrained=config.weights is None)
    if isinstance(model, EmbeddingNetwork):
        model.set_pixel_statistics(_sample(train))
    elif isinstance(model, FeatureNetwork):
        model.set_statistics(_sample(train))
    if config.weights is not None:
        _start_from(config.weights, model)
    if config.freeze == "batch-norm":
        freeze_batch_norm(model)
    elif config.freeze == "backbone":
        backbone = backbone_of(model)
        if backbone is None:
            raise ConfigError(
                f"freeze must be nothing or batch-norm with network {config.network!r}, which has no "
                "embedding layer on a backbone, got 'backbone'"
            )
        freeze(backbone)
    return model


def network_description(config: TrainConfig, train: Split) -> dict[str, str]:
    """What `rebuild` makes the network of a run again from: metadata for its weights file."""
    return _plan(config, train).describe()


def rebuild(description: Mapping[str, str], trust_code: bool = False) -> nn.Module:
    """The network that `network_description` told of, its numbers still to be loaded, in evaluation mode.

    Args:
        description: may hold other things too.
        trust_code: whether a network by import path is made, which runs code that the description names.

    Raises:
        InputError: it tells of no network, or of one by import path that is not trusted.
        ConfigError: the network cannot be made here.
    """
    plan = NetworkPlan.read(description)
    if plan.is_imported and not trust_code:
        raise InputError(
            f"the network is {plan.network!r}, and making it runs that code: trust_code (--trust-code) must "
            "be on, for a checkpoint that you trust"
        )
    return _build(plan, pretrained=False).eval()


def _plan(config: TrainConfig, train: Split) -> NetworkPlan:
    return NetworkPlan(
        config.network,
        config.network_options,
        shown_shape(config, train),
        config.embedding_dim,
        config.network_width,
    )


def _start_from(path: str, model: nn.Module) -> None:
    """Load a file of all weights, or of the backbone alone; the embedding layer stays as it was made then."""
    backbone = backbone_of(model)
    names = read_tensors(path)[0].keys()
    if backbone is not None and names == backbone.state_dict().keys():
        load_weights(path, backbone)
    else:
        load_weights(path, model)


def _build(plan: NetworkPlan, pretrained: bool) -> nn.Module:
    if plan.is_imported:
        return _imported(plan)
    if plan.network not in NAMES and not plan.network.startswith("timm:"):
        near = get_close_matches(plan.network, NAMES, n=1)
        hint = f" (near it: {near[0]})" if near else ""
        raise ConfigError(f"network must be one of {', '.join(NAMES)}, got {plan.network!r}{hint}")
    if len(plan.shape) == 1 and plan.network != "head":
        raise ConfigError(f"network must be 'head' or an import path for features, got {plan.network!r}")
    if plan.network == "head":
        if len(plan.shape) != 1:
            raise ConfigError("network 'head' is for features, but the data set has images")
        return _made(plan, partial(FeatureNetwork, plan.shape[0], plan.embedding_dim), plan.options)
    channels, height, width = plan.shape
    if plan.network == "small":
        small = partial(EmbeddingNetwork, plan.embedding_dim, plan.width, (height, width), channels)
        return _made(plan, small, plan.options)
    options = dict(plan.options)
    if not pretrained:
        options |= {"pretrained": False}
        options.pop("checkpoint_path", None)  # timm would read it
    if plan.network == "efficientnet-lite0":
        backbone = _made(plan, partial(efficientnet_lite0, (height, width)), options)
    else:
        backbone = timm_backbone(plan.network.removeprefix("timm:"), **options)
    return _with_head(plan, backbone, channels_last=True)


def _made(plan: NetworkPlan, make: Callable[..., T], options: Mapping[str, Any]) -> T:
    """``make(**options)``, its options checked by name."""
    known = [
        name for name, parameter in inspect.signature(make).parameters.items() if parameter.kind == _NAMED
    ]
    for name in options:
        if name not in known:
            accepted = f"must be of {', '.join(known)}" if known else "must be empty"
            raise ConfigError(f"network_options {accepted} for network {plan.network!r}, got {name!r}")
    try:
        return make(**options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network_options of {plan.network!r} cannot work: {error}") from error


def _imported(plan: NetworkPlan) -> nn.Module:
    """A module as it is where it makes embeddings, else with an embedding layer on it."""
    options = dict(plan.options)
    head, mean, std = (options.pop(name, None) for name in ("head", "mean", "std"))
    if head not in (None, True, False):
        raise ConfigError(f"network_options head must be true, false or absent, got {head!r}")
    if head is False and (mean is not None or std is not None):
        raise ConfigError("network_options mean and std must be absent where head is false")
    module = imported(plan.network, options)
    if not head and mean is None and std is None:
        shape = tuple(_tried(plan, module).shape)
        if shape == (_TRIED, plan.embedding_dim):
            return module
        if head is False:
            raise ConfigError(
                f"network {plan.network!r} must make embeddings [N, {plan.embedding_dim}] where head is "
                f"false, it made {_of_any_batch(shape)}"
            )
    backbone = Backbone(module, _numbers("mean", mean, 0.0), _numbers("std", std, 1.0))
    return _with_head(plan, backbone, channels_last=False)


def _with_head(plan: NetworkPlan, backbone: Backbone, channels_last: bool) -> BackboneWithHead:
    model = BackboneWithHead(backbone.module, nn.Identity(), backbone.mean, backbone.std, channels_last)
    features = _tried(plan, model)
    if features.ndim != 2 or len(features) != _TRIED:
        raise ConfigError(
            f"network {plan.network!r} must give features [N, F] or [N, F, h, w], it gave "
            f"{_of_any_batch(tuple(features.shape))}"
        )
    model.head = nn.Linear(features.shape[1], plan.embedding_dim)
    return model


@torch.no_grad()
def _tried(plan: NetworkPlan, module: nn.Module) -> Tensor:
    """What a module gives for two inputs; it is as before then."""
    modes = [(part, part.training) for part in module.modules()]
    shape = (_TRIED, *plan.shape)
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            output = module(torch.zeros(shape))
    except Exception as error:  # whatever a foreign module raises
        raise ConfigError(
            f"network {plan.network!r} cannot take inputs of shape {_of_any_batch(shape)}: {error}"
        ) from error
    for part, mode in modes:
        part.training = mode
    if not isinstance(output, Tensor):
        raise ConfigError(f"network {plan.network!r} must give one tensor, it gave {type(output).__name__}")
    return output


def _of_any_batch(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"


def _numbers(name: str, value: Any, absent: float) -> tuple[float, ...]:
    if value is None:
        return (absent,)
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(isinstance(number, (int, float)) for number in values):
        raise ConfigError(f"network_options {name} must be numbers, one a channel, got {value!r}")
    return tuple(map(float, values))


def _sample(train: Split) -> Tensor:
    """Some training images from all over the split, uint8 [n, C, H, W], or features float32 [n, F]."""
    most = _READ if reads_files(train.images) else _IN_MEMORY
    rows = torch.arange(len(train))[:: -(-len(train) // most) or 1]
    with load_chunks(train, [rows], on_skip=lambda path: None) as chunks:
        images = next(chunks).images
    if not len(images):
        raise InputError(f"{train.name} must have images that can be read, got none of the {len(rows)} tried")
    return images
