"""A fastdml loss in the trainer of sentence-transformers: python examples/sentence_transformers_training.py

A small transformer learns from scratch which requests ask for the same, and is tested on ones that training
never saw. The trainer needs `sentence-transformers[train]`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from request_sentences import make_model, make_sentences, recall_at_1
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from torch import Tensor, nn

from fastdml.losses import MultiSimilarityLoss
from fastdml.miners import MultiSimilarityMiner


class FusedSentenceLoss(nn.Module):
    """Any fastdml loss as a loss of sentence-transformers.

    All texts of a row are of one class: that of the column `label`, or one of its own where there is none.

    Args:
        model: what the trainer trains; it must be called `model` here for the trainer to find it.
        loss: of embeddings [N, D] and labels [N].
        miner: its result is handed to the loss; None where it wants none.
    """

    def __init__(self, model: SentenceTransformer, loss: nn.Module, miner: Any = None) -> None:
        super().__init__()
        self.model, self.loss, self.miner = model, loss, miner

    def forward(self, sentence_features: Sequence[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        columns = [self.model(features)["sentence_embedding"] for features in sentence_features]
        embeddings = torch.cat(columns)
        if labels is None:
            labels = torch.arange(len(columns[0]), device=embeddings.device)
        labels = labels.repeat(len(columns))
        pairs = None if self.miner is None else self.miner(embeddings, labels)
        return self.loss(embeddings, labels, pairs)


def train(model: SentenceTransformer, texts: list[str], labels: Tensor, steps: int, batch: int) -> None:
    """The trainer of sentence-transformers with a fused loss and miner."""
    from datasets import Dataset  # here alone: who wants the loss above only needs no data sets

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            batch_sampler="group_by_label",  # a loss of pairs needs several texts a class
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
        )
        SentenceTransformerTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict({"sentence": texts, "label": labels.tolist()}),
            loss=FusedSentenceLoss(model, MultiSimilarityLoss(), MultiSimilarityMiner()),
        ).train()


def main(steps: int = 100, batch: int = 96) -> tuple[float, float]:
    """Recall@1 on classes that training never saw, before and after it."""
    torch.manual_seed(0)
    (texts, labels), (test_texts, test_labels) = make_sentences(test=False), make_sentences(test=True)
    model = make_model(texts)
    before = recall_at_1(model, test_texts, test_labels)
    train(model, texts, labels, steps, batch)
    after = recall_at_1(model, test_texts, test_labels)
    print(f"Recall@1 on unseen requests: {before:.1%} before, {after:.1%} after {steps} steps of {batch}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=96, help="texts a step")
    main(**vars(parser.parse_args()))
