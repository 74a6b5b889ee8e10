"""Where the CUDA operators run: on a GPU, or emulated on the host."""

from __future__ import annotations

from functools import cache

import emulated
import pytest

from fastdml.backends import extension, native, registry


@cache
def reason_against(device: str) -> str | None:
    """Why the operators cannot run on a device; None where they are loaded."""
    if device == "cuda":
        return native.reason("cuda")
    try:
        emulated.load()
    except extension.BuildError as error:
        if "not found" in str(error):
            return str(error)
        raise
    return None


@pytest.fixture(params=["cuda", "cpu"], ids=["gpu", "emulated"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tensors of a test live; the backend takes them there."""
    why = reason_against(request.param)
    if why is not None:
        pytest.skip(why)
    if request.param == "cpu":
        monkeypatch.setitem(registry._DEVICES, "cuda", ("cuda", "cpu"))
        monkeypatch.setitem(registry._reasons, "cuda", None)
    return request.param


@pytest.fixture
def gpu() -> None:
    """Skips the test where there is no GPU."""
    why = reason_against("cuda")
    if why is not None:
        pytest.skip(why)
