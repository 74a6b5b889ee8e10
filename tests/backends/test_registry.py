"""The choice of a backend: by device, dtype, what can run, what the rule takes, and what was asked for."""

import os
import subprocess
import sys

import pytest
import torch

import fastdml
from fastdml.backends import Choice, registry, select, use_backend


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """A machine on which every backend can run, until a test writes down why one cannot."""
    reasons: dict[str, str | None] = dict.fromkeys(registry.BACKENDS)
    monkeypatch.setattr(registry, "_reasons", reasons)
    monkeypatch.setattr(registry, "_warned", set())
    monkeypatch.setattr(registry, "_asked", None)
    return reasons


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", torch.float16, "triton"),
        ("cuda", torch.bfloat16, "triton"),
        ("cuda", torch.float32, "triton"),
        ("cuda", torch.float64, "cuda"),
        ("cpu", torch.float32, "cpu"),
        ("cpu", torch.float64, "cpu"),
        ("cpu", torch.bfloat16, "cpu"),
        ("cpu", torch.float16, "cpu"),
        ("meta", torch.float32, "blocked"),
        ("mps", torch.float32, "blocked"),
    ],
)
def test_first_choice(machine: dict[str, str | None], device: str, dtype: torch.dtype, expected: str) -> None:
    assert select(device, dtype).name == expected


def test_next_best_where_one_is_missing(machine: dict[str, str | None]) -> None:
    machine["triton"] = "triton is missing"
    assert select("cuda", torch.float32) == Choice(
        "cuda", "triton: triton is missing; the first that can run"
    )
    machine["cuda"] = "nvcc is missing"
    name, reason = select("cuda", torch.float32)
    assert name == "blocked"
    assert "triton is missing" in reason
    assert "nvcc is missing" in reason
    assert registry.available_backends() == ("cpu", "blocked", "reference")


def test_the_caller_can_veto_a_backend(machine: dict[str, str | None]) -> None:
    def unsupported(name: str) -> str | None:
        return "no rows that long" if name in ("triton", "cpu") else None

    assert select("cuda", torch.float32, unsupported).name == "cuda"
    assert select("cpu", torch.float32, unsupported) == Choice(
        "blocked", "cpu: no rows that long; blocks of plain PyTorch run anywhere"
    )
    with use_backend("cpu"), pytest.raises(fastdml.BackendError, match="no rows that long"):
        select("cpu", torch.float32, unsupported)


def test_a_veto_comes_before_probing_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(name: str) -> str | None:
        raise AssertionError(f"{name} was probed")

    monkeypatch.setattr(registry, "reason_against", probe)
    monkeypatch.setattr(registry, "_asked", None)
    assert select("cpu", torch.float32, lambda name: "vetoed").name == "blocked"
    assert select("cpu", torch.complex64).name == "blocked"
    assert select("meta", torch.float32).name == "blocked"
    with use_backend("reference"):
        assert select("cpu", torch.float32).name == "reference"


def test_asked_for_and_impossible_is_an_error_that_says_what_can(machine: dict[str, str | None]) -> None:
    machine["cuda"] = "no CUDA device"
    with use_backend("cuda"):
        with pytest.raises(fastdml.BackendError) as caught:
            select("cuda", torch.float32)
        assert str(caught.value) == (
            "backend 'cuda' was asked for and cannot run torch.float32 on cuda: no CUDA device. "
            "What can: triton, blocked, reference"
        )
        with pytest.raises(
            fastdml.BackendError, match=r"not run on cpu tensors\. What can: cpu, blocked, ref"
        ):
            select("cpu", torch.float32)
    with use_backend("cpu"), pytest.raises(fastdml.BackendError, match=r"does not take torch\.complex64"):
        select("cpu", torch.complex64)


def test_triton_runs_cpu_tensors_only_interpreted_and_asked_for(
    machine: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert select("cpu", torch.float32).name == "cpu"
    with use_backend("triton"):
        assert select("cpu", torch.float32).name == "triton"
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        with pytest.raises(fastdml.BackendError, match="only under TRITON_INTERPRET=1"):
            select("cpu", torch.float32)


def test_use_backend_nests_sets_and_restores(machine: dict[str, str | None]) -> None:
    def now() -> str:
        return select("cpu", torch.float32).name

    with use_backend("reference"):
        assert now() == "reference"
        with use_backend("cpu"):
            assert now() == "cpu"
            with use_backend("auto"):
                assert registry.asked_backend() is None
        assert now() == "reference"
        with pytest.raises(KeyError), use_backend("cpu"):
            raise KeyError
        assert now() == "reference"
    assert now() == "cpu"
    use_backend("reference")
    assert now() == "reference"
    use_backend(None)
    assert now() == "cpu"


def test_an_unknown_name_is_refused_and_changes_nothing(machine: dict[str, str | None]) -> None:
    use_backend("reference")
    with pytest.raises(
        ValueError, match="backend must be one of triton, cuda, cpu, blocked, reference or auto, got 'gpu'"
    ):
        use_backend("gpu")
    assert registry.asked_backend() == "reference"


def test_compiled_code_follows_use_backend(machine: dict[str, str | None]) -> None:
    def number(x: torch.Tensor) -> torch.Tensor:
        name = select(x.device.type, x.dtype, lambda name: None).name
        return x + registry.BACKENDS.index(name)

    torch.compiler.reset()
    compiled = torch.compile(number, backend="eager", fullgraph=True)
    x = torch.zeros(())
    assert compiled(x).item() == registry.BACKENDS.index("cpu")
    with use_backend("reference"):
        assert compiled(x).item() == registry.BACKENDS.index("reference")
    assert compiled(x).item() == registry.BACKENDS.index("cpu")


def test_probing_the_machine_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_reasons", {})
    monkeypatch.setattr(registry, "_asked", None)
    torch.compiler.reset()

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if select("cpu", x.dtype).name == "cpu" else x * 3

    expected = scaled(torch.ones(2))
    registry._reasons.pop("cpu")
    assert torch.equal(torch.compile(scaled, backend="eager", fullgraph=True)(torch.ones(2)), expected)


@pytest.mark.parametrize(
    ("value", "expected"), [("reference", "reference"), ("nope", "must be one of"), ("", "None")]
)
def test_the_environment_asks_too(value: str, expected: str) -> None:
    code = (
        "import torch\nfrom fastdml.backends import registry\n"
        "try: print(registry.asked_backend() and registry.select('cpu', torch.float32).name)\n"
        "except ValueError as error: print(error)"
    )
    environment = {**os.environ, "FASTDML_BACKEND": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert expected in done.stdout, done.stderr
