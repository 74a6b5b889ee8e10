"""Batches whose classes come from few super-classes, so that their negatives look alike."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fastdml.data.samplers import ClassBalancedBatchSampler, check_integers, generator_of
from fastdml.errors import InputError


class CategoryBatchSampler(ClassBalancedBatchSampler):
    """Yields P x K batches whose P classes come from `categories_per_batch` categories, as many from each.

    A category is a class of classes, such as "bicycle" in Stanford Online Products: an image's hardest
    negatives are mostly in its own. Categories come up in proportion to how many classes they have, so that
    classes are drawn about equally often: in a round each category's classes are dealt into shares of
    P / `categories_per_batch`, and every share is in one batch. Left out, other ones each round, are classes
    that fill no share, and shares of a category so large that it would have to be in a batch twice.

    Categories with fewer classes than a share are in no batch, and a warning names them. All else is as in
    :class:`ClassBalancedBatchSampler`: every batch is a function of (seed, epoch, number) alone.

    Args:
        labels: integer [N], the class of every image.
        categories: integer [N], the category of every image's class, with any values.
        classes_per_batch: P, a multiple of `categories_per_batch`.
        samples_per_class: K, at most the size of the smallest class unless `replacement`.
        categories_per_batch: categories in a batch.
        seed: a whole number, negative ones included.
        num_batches: batches an epoch; default N // (P * K), at least 1.
        replacement: let classes with fewer than K images repeat them.

    Raises:
        InputError: a class has images of two categories, `categories` is not as long as `labels`, P cannot be
            shared out equally, or too few categories have enough classes.
        ValueError: for the other arguments as :class:`ClassBalancedBatchSampler` does.
        TypeError: `labels` or `categories` is not an integer tensor.
    """

    def __init__(
        self,
        labels: Tensor,
        categories: Tensor,
        classes_per_batch: int,
        samples_per_class: int,
        categories_per_batch: int = 1,
        seed: int = 0,
        num_batches: int | None = None,
        replacement: bool = False,
    ) -> None:
        super().__init__(labels, classes_per_batch, samples_per_class, seed, num_batches, replacement)
        check_integers("categories", categories)
        if len(categories) != len(labels):
            raise InputError(f"categories must have shape [{len(labels)}], got {list(categories.shape)}")
        if categories_per_batch < 1:
            raise InputError(f"categories_per_batch must be at least 1, got {categories_per_batch}")
        if classes_per_batch % categories_per_batch:
            wanted = f"a multiple of categories_per_batch ({categories_per_batch})"
            raise InputError(f"classes_per_batch must be {wanted}, got {classes_per_batch}")
        self.categories_per_batch = categories_per_batch
        self._share = classes_per_batch // categories_per_batch
        names, inverse = torch.unique(
            self._category_of_class(labels.cpu(), categories.cpu()), return_inverse=True
        )
        sizes = torch.bincount(inverse)  # [categories], in classes
        self._check_sizes(names, sizes)
        by_category = torch.split(torch.argsort(inverse, stable=True), sizes.tolist())
        self._categories = [classes for classes in by_category if len(classes) >= self._share]
        self._per_round = _batches([len(c) // self._share for c in self._categories], categories_per_batch)

    def _category_of_class(self, labels: Tensor, categories: Tensor) -> Tensor:
        rows = torch.cat(self._members)
        sizes = torch.tensor([len(members) for members in self._members])
        own = categories[torch.stack([members[0] for members in self._members])]
        expected = own.repeat_interleave(sizes)
        wrong = (categories[rows] != expected).nonzero().flatten()
        if len(wrong):
            at = wrong[0]
            held = f"{int(expected[at])} and {int(categories[rows[at]])} for label {int(labels[rows[at]])}"
            raise InputError(f"categories must be the same for all images of a class, got {held}")
        return own

    def _check_sizes(self, names: Tensor, sizes: Tensor) -> None:
        small = (sizes < self._share).nonzero().flatten().tolist()
        if len(sizes) - len(small) < self.categories_per_batch:
            raise InputError(
                f"classes_per_batch must leave categories_per_batch ({self.categories_per_batch}) categories "
                f"with {self._share} classes or more each, got {self.classes_per_batch} where "
                f"{len(sizes) - len(small)} of {len(sizes)} have them; the largest has {int(sizes.max())}"
            )
        if small:
            named = ", ".join(f"{int(names[c])} ({int(sizes[c])})" for c in small)
            warnings.warn(
                f"{int(sizes[small].sum())} classes are in no batch, because their categories have fewer "
                f"than the {self._share} classes that a batch takes of each: {named}",
                stacklevel=3,
            )

    def _classes(self, number: int, epoch: int) -> list[int]:
        generator = generator_of(self.seed, epoch, 0, number // self._per_round)
        shares: list[Tensor] = []
        for c in torch.randperm(len(self._categories), generator=generator).tolist():
            classes = self._categories[c]
            count = min(len(classes) // self._share, self._per_round)
            order = torch.randperm(len(classes), generator=generator)[: count * self._share]
            shares.append(classes[order].view(count, self._share))
        # Dealt out in turn, a batch gets no two shares of a category, which has at most one a batch.
        dealt = torch.cat(shares)[: self._per_round * self.categories_per_batch]
        turns = torch.randperm(self._per_round, generator=generator)
        return dealt[int(turns[number % self._per_round]) :: self._per_round].flatten().tolist()

    def _identity(self) -> dict[str, int]:
        return {
            **super()._identity(),
            "categories_per_batch": self.categories_per_batch,
            "num_categories": len(self._categories),
        }


def _batches(shares: list[int], together: int) -> int:
    """Most batches of `together` shares of different categories that can be made of `shares` a category."""
    batches = sum(shares) // together
    while (possible := sum(min(count, batches) for count in shares) // together) < batches:
        batches = possible
    return batches
