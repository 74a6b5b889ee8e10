"""The contests: what each is about, who takes part, and who computes something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.peers import Contestant

BOTH_WAYS = ("forward", "backward", "both")
LESS_IN_PML = "PML finds Recall@1 and MAP@R only."
METRICS_OF_A_SET = "Recall@1, 10, 100, 1000 and MAP@R of a set against itself"


@dataclass(frozen=True)
class Contest:
    """One results file a device.

    Attributes:
        title: what is computed, as the README says it.
        directions: what is timed; the last is the whole.
        by_loss: whether its providers are named "<loss>/<library>", and its tables have a row for every loss.
        note: what a reader of its tables must know.
    """

    title: str
    directions: tuple[str, ...]
    by_loss: bool = False
    note: str = ""

    @property
    def whole(self) -> str:
        """The direction that tables and targets are about."""
        return self.directions[-1]


CONTESTS: Mapping[str, Contest] = {
    "pair_multi_similarity": Contest(
        "Multi-Similarity with mining, forward and backward of one batch", BOTH_WAYS
    ),
    "pair_losses": Contest(
        "Every pair loss, forward and backward of one batch",
        BOTH_WAYS,
        by_loss=True,
        note="Multi-Similarity with mining, the others of all pairs or triplets; same arguments in both.",
    ),
    "soft_triple": Contest(
        "SoftTriple, forward and backward of one batch",
        BOTH_WAYS,
        note="10 centres for each of 11,318 classes (113,180 on a GPU), without the regulariser. Memory is "
        "beyond the centres and their gradient too.",
    ),
    "proxy_losses": Contest(
        "Every loss with centres of classes, forward and backward of one batch",
        BOTH_WAYS,
        by_loss=True,
        note="11,318 classes as SOP trains, 10 centres each for the triples, 3 for sub-centre ArcFace, else "
        "1; same arguments in both. PML's regulariser of SoftTriple would compare all centres with each "
        "other, in 51 GB. Memory is beyond the centres and their gradient too.",
    ),
    "fat": Contest(
        "FAT with the five nearest centroids, forward and backward of one batch",
        BOTH_WAYS,
        note="8 samples a class. PML computes what FAT bounds, the loss over all triplets. The product is "
        "that of the batch with the centroids by itself: what FAT cannot avoid, and no rival.",
    ),
    "retrieval_evaluate": Contest(METRICS_OF_A_SET, ("evaluate",), note=LESS_IN_PML),
    "retrieval_sop": Contest(
        f"{METRICS_OF_A_SET} as large as the test set of Stanford Online Products",
        ("evaluate",),
        note=LESS_IN_PML,
    ),
}
"""By the name of their results file, in the order of the README."""


def find_contestants(contest: str, device: str) -> list[Contestant]:
    """All who take part, those that cannot run here among them."""
    # Only what the contest needs is imported, for memory is measured in processes that come by here.
    if contest == "pair_multi_similarity":
        from bench.peers import pair_contestants

        return pair_contestants(device)
    if contest == "pair_losses":
        from bench.loss_peers import loss_contestants

        return loss_contestants(device)
    if contest == "proxy_losses":
        from bench.proxy_peers import proxy_contestants

        return proxy_contestants(device)
    if contest == "soft_triple":
        from bench.proxy_peers import soft_triple_contestants

        return soft_triple_contestants(device)
    if contest == "fat":
        from bench.fat_peers import fat_contestants

        return fat_contestants(device)
    from bench.retrieval_peers import retrieval_contestants

    return retrieval_contestants(device)


def find_wrong(contest: str, device: str) -> dict[str, str]:
    """The contestants that compute something else on small batches, and how far off they are."""
    if contest == "pair_multi_similarity":
        from bench.peers import check_agreement, disagreements

        return disagreements(check_agreement(find_contestants(contest, device), device))
    if contest == "pair_losses":
        from bench.loss_peers import check_losses

        return check_losses(device)
    if contest == "proxy_losses":
        from bench.proxy_peers import check_proxies

        return check_proxies(device)
    if contest == "soft_triple":
        from bench.proxy_peers import check_soft_triple

        return check_soft_triple(device)
    if contest == "fat":
        from bench.fat_peers import check_fat

        return check_fat(device)
    from bench.retrieval_peers import check_retrieval

    return check_retrieval(device, uneven=contest == "retrieval_sop")
