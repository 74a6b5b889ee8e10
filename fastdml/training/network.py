"""The built-in embedding network: small enough to train on two CPU cores in a minute."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class EmbeddingNetwork(nn.Module):
    """Four convolution blocks on small grey images, then a linear layer to the embedding.

    The last feature map (2 x 2 for 32 x 32 images) is not averaged away: where a stroke stands is what tells
    many characters apart.

    Args:
        embedding_dim: width D of the embedding.
        width: channels of the first block; the others have 2, 4 and 4 times as many.
        image_size: height and width of the images in pixels, a multiple of 16.
    """

    def __init__(self, embedding_dim: int = 64, width: int = 32, image_size: int = 32) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16, got {image_size}")
        channels = [1, width, 2 * width, 4 * width, 4 * width]
        self.image_size = image_size
        self.blocks = nn.Sequential(*(_block(inner, outer) for inner, outer in pairwise(channels)))
        self.head = nn.Linear(channels[-1] * (image_size // 16) ** 2, embedding_dim)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.zeros(()))
        self.register_buffer("pixel_std", torch.ones(()))
        for block in self.blocks:  # a third less time a step on a CPU
            block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def set_pixel_statistics(self, images: Tensor) -> None:
        """Take mean and deviation from the training images, uint8 [N, 1, H, W]; saved with the weights."""
        counts = torch.bincount(images.flatten().int(), minlength=256).double()
        levels = torch.arange(256, device=images.device).double() / 255.0
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(variance.sqrt().clamp(min=1e-3))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings float32 [N, D], not normalised (the losses and the metrics do that).

        images: float32 [N, 1, image_size, image_size], in [0, 1].
        """
        if images.ndim != 4 or list(images.shape[1:]) != [1, self.image_size, self.image_size]:
            raise ValueError(
                f"images must have shape [N, 1, {self.image_size}, {self.image_size}], "
                f"got {list(images.shape)}"
            )
        scaled = (images - self.pixel_mean) / self.pixel_std
        features = self.blocks(scaled.contiguous(memory_format=torch.channels_last))
        return self.head(features.flatten(1))


def _block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel_size=3, padding=1, bias=False),
        nn.MaxPool2d(2),  # before the norm and the ReLU, which then have a quarter of the work
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )


def count_parameters(model: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def global_gradient_norm(model: nn.Module) -> float:
    """Euclidean norm of all gradients together."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm()) if gradients else 0.0
