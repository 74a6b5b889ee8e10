"""Fixtures of the tests of losses."""

from __future__ import annotations

from typing import Any

import pytest

import fastdml

BACKENDS = [name for name in ("cpu", "reference") if name in fastdml.available_backends()]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    """Every backend that runs here in turn."""
    with fastdml.use_backend(request.param):
        yield request.param
