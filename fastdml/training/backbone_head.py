"""Networks that end in an embedding layer: on a backbone, or on features that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fastdml.training.network import EmbeddingNetwork


class BackboneWithHead(nn.Module):
    """A backbone and a layer that makes embeddings of its features.

    Args:
        backbone: from images [N, C, H, W] to features [N, F], or [N, F, h, w], which are averaged over h and
            w; or from features [N, E] to [N, F].
        head: from [N, F] to embeddings [N, D].
        mean: of every channel in what the backbone was trained with, on the scale of 0 to 1; one number
            stands for all channels. Grey images are spread over three channels where it has three numbers.
        std: deviation of every channel, in the same way.
        channels_last: whether images are handed on with their channels innermost in memory, which makes
            convolutions faster: a third less time a step of EfficientNet-Lite0 on a CPU.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.backbone = backbone
        if channels_last:
            backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = head
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("pixel_std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings float32 [N, D], not normalised. images: float32 [N, C, H, W] in [0, 1]."""
        mean, std = self.pixel_mean, self.pixel_std
        if images.ndim == 4:
            mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        scaled = (images - mean) / std
        if self.channels_last:
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        features = self.backbone(scaled)
        return self.head(features.mean((2, 3)) if features.ndim == 4 else features)


class FeatureNetwork(nn.Module):
    """Linear layers on features that another network has made, standardised by those of the training set.

    Args:
        features: width F of the features.
        embedding_dim: width D of the embedding.
        hidden: widths of layers in between, each with a ReLU; none by default.
        dropout: share of the inputs of every layer but the first that are left out in training.
    """

    def __init__(
        self, features: int, embedding_dim: int, *, hidden: Sequence[int] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = features
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            width = following
        self.layers = nn.Sequential(*layers, nn.Linear(width, embedding_dim))
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))

    @torch.no_grad()
    def set_statistics(self, features: Tensor) -> None:
        """Take mean and deviation of every feature from the training set's, float32 [N, F]."""
        std, mean = torch.std_mean(features, dim=0, correction=0)
        self.feature_mean.copy_(mean)
        # a feature that never changed in training says nothing, whatever it is later
        self.feature_std.copy_(torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, torch.inf))

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings float32 [N, D], not normalised. features: float32 [N, F]."""
        return self.layers((features - self.feature_mean) / self.feature_std)


def backbone_of(model: nn.Module) -> nn.Module | None:
    """What is below the embedding layer of a network; None where it has no such parts."""
    if isinstance(model, BackboneWithHead):
        return model.backbone
    return model.blocks if isinstance(model, EmbeddingNetwork) else None


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the embedding layer of a network that has a backbone below it; else none."""
    if isinstance(model, (BackboneWithHead, EmbeddingNetwork)):
        return list(model.head.parameters())
    return []


def freeze(backbone: nn.Module) -> None:
    """Let a backbone stay as it is: nothing in it learns, and it keeps to evaluation mode."""
    backbone.requires_grad_(False)
    backbone.eval()
    backbone.train = partial(_stay, backbone)  # type: ignore[method-assign]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What stands for ``module.train`` where it is frozen."""
    del mode
    return module
