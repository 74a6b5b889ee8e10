"""A fastdml loss and miner in pytorch-metric-learning's own trainer: python examples/pml_trainer.py

One import differs from the same program with PML's loss and miner; `--package` runs that one instead. Both
print the same losses.
"""

from __future__ import annotations

import argparse
import importlib

import numpy as np
import torch
from pytorch_metric_learning import samplers, trainers
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from fastdml.data import Augment, Split, glyphs
from fastdml.retrieval import evaluate
from fastdml.training import EmbeddingNetwork


class Images(Dataset[tuple[Tensor, int]]):
    """A split, image by image, as PML's trainers ask for it."""

    def __init__(self, split: Split) -> None:
        self.images, self.labels = split.batch(torch.arange(len(split))), split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.images[row], self.labels[row]


def main(steps: int = 150, batch: int = 128, package: str = "fastdml") -> tuple[float, float, list[float]]:
    """Recall@1 on characters that training never saw, before and after it; and the loss of every step."""
    # in a program of your own: from fastdml import losses, miners
    losses = importlib.import_module(f"{package}.losses")
    miners = importlib.import_module(f"{package}.miners")

    torch.manual_seed(0)
    np.random.seed(0)  # PML's sampler draws by it
    train, test = glyphs.load("train"), glyphs.load("test")
    network = EmbeddingNetwork(width=16)
    network.set_pixel_statistics(train.images)
    augment, generator = Augment(), torch.Generator().manual_seed(0)

    def collate(rows: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        images, labels = default_collate(rows)
        return augment(images, generator), labels

    values: list[float] = []
    trainer = trainers.MetricLossOnly(
        models={"trunk": network},
        optimizers={"trunk_optimizer": torch.optim.Adam(network.parameters(), lr=3e-3)},
        batch_size=batch,
        loss_funcs={"metric_loss": losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)},
        mining_funcs={"tuple_miner": miners.MultiSimilarityMiner(epsilon=0.1)},
        dataset=Images(train),
        sampler=samplers.MPerClassSampler(train.labels, m=8, batch_size=batch),
        collate_fn=collate,
        iterations_per_epoch=steps,
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
        end_of_iteration_hook=lambda state: values.append(state.losses["metric_loss"].item()),
    )
    before = recall_at_1(network, test)
    trainer.train(num_epochs=1)
    after = recall_at_1(network, test)
    print(f"loss: {values[0]:.6f} at first, {values[-1]:.6f} at last")
    print(f"Recall@1 on unseen characters: {before:.1%} before, {after:.1%} after {steps} steps")
    return before, after, values


@torch.no_grad()
def recall_at_1(network: nn.Module, split: Split) -> float:
    """The share of images whose nearest other one in the gallery is of their class."""
    network.eval()
    parts = [network(split.batch(rows)) for rows in torch.arange(len(split)).split(500)]
    return evaluate(torch.cat(parts), split.labels, ks=(1,), gallery=split.is_gallery).recall[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=128, help="images a step, 8 a class")
    parser.add_argument("--package", default="fastdml", choices=["fastdml", "pytorch_metric_learning"])
    main(**vars(parser.parse_args()))
