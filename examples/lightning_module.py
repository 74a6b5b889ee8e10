"""A fastdml loss in a Lightning module: python examples/lightning_module.py

Trains on the built-in characters and searches among characters that training never saw.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastdml.data import Augment, ClassBalancedBatchSampler, Split, glyphs
from fastdml.losses import MultiSimilarityLoss
from fastdml.miners import MultiSimilarityMiner
from fastdml.retrieval import evaluate
from fastdml.training import EmbeddingNetwork


class EmbeddingModule(lightning.LightningModule):
    """An embedding network under a loss; centres that the loss learns are its parameters as well.

    Args:
        network: images float32 [B, C, H, W] to embeddings [B, D].
        loss: of embeddings, labels [B] and what the miner found.
        miner: called with embeddings and labels; None where the loss wants none.
        learning_rate: of Adam.
    """

    def __init__(
        self, network: nn.Module, loss: nn.Module, miner: Any = None, learning_rate: float = 3e-3
    ) -> None:
        super().__init__()
        self.network, self.loss, self.miner, self.learning_rate = network, loss, miner, learning_rate
        self.augment = Augment()
        self.found: list[tuple[Tensor, ...]] = []

    def on_fit_start(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(0)

    def training_step(self, batch: tuple[Tensor, ...], number: int) -> Tensor:
        images, labels, _ = batch
        embeddings = self.network(self.augment(images, self.generator))
        pairs = None if self.miner is None else self.miner(embeddings, labels)
        value: Tensor = self.loss(embeddings, labels, pairs)
        self.log("loss", value, prog_bar=True)
        return value

    def validation_step(self, batch: tuple[Tensor, ...], number: int) -> None:
        images, labels, in_gallery = batch
        self.found.append((self.network(images), labels, in_gallery))

    def on_validation_epoch_end(self) -> None:
        # recall is a matter of all queries and the whole gallery, never of one batch
        embeddings, labels, in_gallery = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        self.found.clear()
        self.log("recall_at_1", evaluate(embeddings, labels, ks=(1,), gallery=in_gallery).recall[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class BatchesOf(Dataset[tuple[Tensor, ...]]):
    """A split that is asked for whole batches: images, labels and whether they are in the gallery."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, ...]:
        return self.split.batch(rows), self.split.labels[rows], self.split.is_gallery[rows]


def main(steps: int = 150, batch: int = 128) -> tuple[float, float]:
    """Recall@1 on characters that training never saw, before and after it."""
    lightning.seed_everything(0, verbose=False)
    train, test = glyphs.load("train"), glyphs.load("test")
    network = EmbeddingNetwork(width=16)
    network.set_pixel_statistics(train.images)
    module = EmbeddingModule(network, MultiSimilarityLoss(), MultiSimilarityMiner())

    sampler = ClassBalancedBatchSampler(train.labels, classes_per_batch=batch // 8, samples_per_class=8)
    # batch_size=None: the sampler's rows reach the data set as one tensor, which decodes them at once
    train_batches = DataLoader(BatchesOf(train), sampler=sampler, batch_size=None)
    test_batches = DataLoader(BatchesOf(test), sampler=torch.arange(len(test)).split(500), batch_size=None)
    trainer = lightning.Trainer(
        max_steps=steps,
        devices=1,
        val_check_interval=steps,
        check_val_every_n_epoch=None,  # the interval above counts steps, whatever the epochs
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the sampler draws batches, which Lightning must not divide
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    before = trainer.validate(module, test_batches, verbose=False)[0]["recall_at_1"]
    trainer.fit(module, train_batches, test_batches)
    after = float(trainer.callback_metrics["recall_at_1"])
    print(f"Recall@1 on unseen characters: {before:.1%} before, {after:.1%} after {steps} steps")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=128, help="images a step, 8 a class")
    main(**vars(parser.parse_args()))
