"""Sentence embeddings by batches larger than memory: python examples/sentence_transformers_large_batches.py

A plain loop around a model of sentence-transformers: a step compares all texts of its batch, and holds what
the layers made of one chunk of them.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from request_sentences import make_model, make_sentences, recall_at_1
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from fastdml import CachedGradients
from fastdml.data import ClassBalancedBatchSampler
from fastdml.losses import MultiSimilarityLoss
from fastdml.miners import MultiSimilarityMiner

PER_CLASS = 16


def embed(model: nn.Module, features: dict[str, Tensor]) -> Tensor:
    """Embeddings [n, D] of a chunk, by a copy of it: the model writes into what it is given."""
    return model(dict(features))["sentence_embedding"]


def train(
    model: SentenceTransformer, texts: list[str], labels: Tensor, steps: int, batch: int, chunk: int
) -> None:
    """Steps of a whole batch each, in the memory of a chunk."""
    loss, miner = MultiSimilarityLoss(), MultiSimilarityMiner()

    def of_batch(embeddings: Tensor, labels: Tensor) -> Tensor:
        return loss(embeddings, labels, miner(embeddings, labels))

    cached = CachedGradients(model, chunk, forward=embed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sampler = ClassBalancedBatchSampler(labels, batch // PER_CLASS, PER_CLASS, num_batches=steps)
    model.train()
    for rows in sampler:
        made = model.preprocess([texts[row] for row in rows.tolist()])
        features = {name: part.to(model.device) for name, part in made.items() if isinstance(part, Tensor)}
        classes = labels[rows].to(model.device)
        optimizer.zero_grad()
        cached.backward(features, partial(of_batch, labels=classes))
        optimizer.step()


def main(steps: int = 20, batch: int = 384, chunk: int = 64) -> tuple[float, float]:
    """Recall@1 on classes that training never saw, before and after it."""
    torch.manual_seed(0)
    (texts, labels), (test_texts, test_labels) = make_sentences(test=False), make_sentences(test=True)
    model = make_model(texts)
    before = recall_at_1(model, test_texts, test_labels)
    train(model, texts, labels, steps, batch, chunk)
    after = recall_at_1(model, test_texts, test_labels)
    print(f"Recall@1 on unseen requests: {before:.1%} before, {after:.1%} after {steps} steps of {batch}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=384, help=f"texts a step, {PER_CLASS} a class")
    parser.add_argument(
        "--chunk", type=int, default=64, help="texts whose layers' outputs are held at a time"
    )
    main(**vars(parser.parse_args()))
