"""Fixtures that tests of every folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pair_batches import BATCHES, Batch, make_batch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The interpreter takes longest and runs in processes of its own: first, so that nothing waits for it."""
    items.sort(key=lambda item: item.path.name != "test_under_interpreter.py")


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest) -> Batch:
    """Every batch in turn."""
    return make_batch(request.param)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fills what torch allocates with NaN, so that nothing a kernel forgot to write passes."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
