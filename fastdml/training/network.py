"""The built-in embedding network: small enough to train on two CPU cores in a minute."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastdml.errors import InputError


class EmbeddingNetwork(nn.Module):
    """Four convolution blocks on small images, then a linear layer to the embedding.

    The last feature map (2 x 2 for 32 x 32 images) is not averaged away: where a stroke stands is what tells
    many characters apart.

    Args:
        embedding_dim: width D of the embedding.
        width: channels of the first block; the others have 2, 4 and 4 times as many.
        image_size: height and width of the images in pixels, one number where they are equal; multiples
            of 16.
        channels: of the images.

    Raises:
        InputError: the size is none of these.
    """

    def __init__(
        self,
        embedding_dim: int = 64,
        width: int = 32,
        image_size: int | tuple[int, int] = 32,
        channels: int = 1,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, breadth) < 16 or height % 16 or breadth % 16:
            shown = image_size if isinstance(image_size, int) else f"{height} x {breadth}"
            raise InputError(f"image_size must be a multiple of 16, got {shown}")
        outer = [channels, width, 2 * width, 4 * width, 4 * width]
        self.image_shape = (channels, height, breadth)
        self.blocks = nn.Sequential(*(_block(inner, following) for inner, following in pairwise(outer)))
        self.head = nn.Linear(outer[-1] * (height // 16) * (breadth // 16), embedding_dim)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.zeros(()))
        self.register_buffer("pixel_std", torch.ones(()))
        for block in self.blocks:  # a third less time a step on a CPU
            block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def set_pixel_statistics(self, images: Tensor) -> None:
        """Take mean and deviation from training images, uint8 [N, C, H, W]; saved with the weights.

        One of each for all channels: what these differ in is taken out by the first BatchNorm.
        """
        counts = torch.bincount(images.flatten().int(), minlength=256).double()
        levels = torch.arange(256, device=images.device).double() / 255.0
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(variance.sqrt().clamp(min=1e-3))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings float32 [N, D], not normalised (the losses and the metrics do that).

        images: float32 [N, C, H, W] of the network's size, in [0, 1].
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise InputError(
                f"images must have shape [N, {', '.join(map(str, self.image_shape))}], "
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
