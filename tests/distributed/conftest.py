"""Four ranks for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks


@pytest.fixture(scope="package")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("no gloo here")
    started = Ranks(4, tmp_path_factory.mktemp("ranks"))
    yield started
    started.close()


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Batches of a few rows gain nothing from a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
