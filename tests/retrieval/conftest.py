"""The two ways of counting ranks."""

from __future__ import annotations

import pytest

from fastdml.backends.registry import reason_against, use_backend
from fastdml.retrieval import blocked, ranks


@pytest.fixture(params=["cpu", "blocked"])
def counting(request):
    """C++ or plain PyTorch."""
    if request.param == "cpu" and (why := reason_against("cpu")):
        pytest.skip(why)
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of plain PyTorch that do not divide the data; those of C++ are 512."""
    monkeypatch.setattr(blocked, "QUERY_BLOCK", 7)
    monkeypatch.setattr(blocked, "GALLERY_BLOCK", 11)


@pytest.fixture
def in_chunks(monkeypatch):
    """Queries go a few at a time, as where classes are large."""
    monkeypatch.setattr(ranks, "MOST_PAIRS", 50)
