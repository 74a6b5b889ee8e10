"""What a loss module gives: its value and the gradients of what it was given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pair_batches import Batch


def value_and_gradients(loss: Any, batch: Batch, miner: Any = None) -> list[Tensor]:
    """The loss, and its gradient in the embeddings and in the candidates."""
    embeddings = batch.embeddings.clone().requires_grad_()
    leaves, ref = [embeddings], {}
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.clone().requires_grad_())
        ref = {"ref_emb": leaves[1], "ref_labels": batch.ref_labels}
    pairs = None if miner is None else miner(embeddings, batch.labels, **ref)
    value = loss(embeddings, batch.labels, pairs, **ref)
    if not value.requires_grad:
        return [value.detach(), *(torch.zeros_like(leaf) for leaf in leaves)]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        value.detach(),
        *(
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ),
    ]
