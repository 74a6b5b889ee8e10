"""How the fused loss behaves on a device: bits repeat, any stream, graphs, no waiting, compiled, autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import fastdml
from bench.gpu.proof import Setting, SkippedError, relative_error, require
from bench.workload import Workload
from fastdml.functional import multi_similarity

Cases = Iterator[tuple[str, Callable[[], str]]]
EPSILON = 0.1


def repeat(setting: Setting, backend: str) -> Cases:
    """Two runs agree in every bit of loss and gradient."""
    sizes = [(200, 40)] if setting.tiny else [(512, 128), (4096, 128), (4096, 512), (16400, 256)]
    for samples, width in sizes:
        for dtype in setting.dtypes:
            work = Workload(samples, width, dtype, setting.device)
            yield str(work), partial(_repeat, backend, work)


def stream(setting: Setting, backend: str) -> Cases:
    """On a stream of its own, behind a long wait: on the wrong stream it would read what is not there yet."""
    yield "side stream", partial(_stream, setting, backend, _small(setting))


def graph(setting: Setting, backend: str) -> Cases:
    """Captured once, replayed on other embeddings."""
    for width in (128, 512):
        yield (
            f"replay, D {width}",
            partial(_graph, setting, backend, Workload(1000, width, "float32", setting.device)),
        )


def sync(setting: Setting, backend: str) -> Cases:
    """Neither forward nor backward waits for the device."""
    yield "forward and backward", partial(_sync, setting, backend, _small(setting))


def compiled(setting: Setting, backend: str) -> Cases:
    """torch.compile takes it whole, and the values stay."""
    yield "fullgraph", partial(_compiled, backend, _small(setting))


def autocast(setting: Setting, backend: str) -> Cases:
    """Autocast changes nothing: embeddings keep their dtype, for mining."""
    yield "bfloat16 around float32", partial(_autocast, setting, backend, _small(setting))


def _small(setting: Setting) -> Workload:
    return Workload(160 if setting.tiny else 1000, 40 if setting.tiny else 128, "float32", setting.device)


def _step(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    loss = multi_similarity(embeddings, labels, epsilon=EPSILON)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    return loss.detach(), gradient


def _same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], what: str) -> None:
    for name, a, b in zip(("loss", "gradient"), found, wanted, strict=True):
        difference = relative_error(a, b)
        require(torch.equal(a, b), f"{what}: {name} differs by {difference:.1e}")
        require(bool(b.isfinite().all()), f"{what}: {name} is not finite")


def _repeat(backend: str, work: Workload) -> str:
    embeddings, labels = work.make()
    with fastdml.use_backend(backend):
        first = _step(embeddings, labels)
        for _ in range(3):
            _same(_step(embeddings, labels), first, "a later run")
    return "4 runs, the same bits"


def _stream(setting: Setting, backend: str, work: Workload) -> str:
    _need_gpu(setting)
    embeddings, labels = work.make()
    with fastdml.use_backend(backend):
        wanted = _step(embeddings, labels)
        late = torch.full_like(embeddings, float("nan")).detach()
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
            late.copy_(embeddings.detach())
            found = _step(late.requires_grad_(), labels)
        side.synchronize()
    _same(found, wanted, "behind a wait on another stream")
    return "the same bits"


def _graph(setting: Setting, backend: str, work: Workload) -> str:
    _need_gpu(setting)
    embeddings, labels = work.make()
    static = embeddings.detach().clone().requires_grad_()
    with fastdml.use_backend(backend):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                _step(static, labels)
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            found = _step(static, labels)
        other = embeddings.detach().flip(0) * 1.5
        with torch.no_grad():
            static.copy_(other)
        captured.replay()
        torch.cuda.synchronize()
        wanted = _step(other.requires_grad_(), labels)
    _same(found, wanted, "replayed")
    return "the same bits"


def _sync(setting: Setting, backend: str, work: Workload) -> str:
    _need_gpu(setting)
    embeddings, labels = work.make()
    with fastdml.use_backend(backend):
        _step(embeddings, labels)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            _step(embeddings, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "no wait"


def _compiled(backend: str, work: Workload) -> str:
    embeddings, labels = work.make()
    with fastdml.use_backend(backend):
        wanted = _step(embeddings, labels)
        torch._dynamo.reset()
        whole = torch.compile(lambda x, y: multi_similarity(2 * x, y, epsilon=EPSILON), fullgraph=True)
        loss = whole(embeddings, labels)
        loss.backward()
    assert embeddings.grad is not None
    for name, found, exact in (("loss", loss, wanted[0]), ("gradient", embeddings.grad, wanted[1])):
        error = relative_error(found.detach(), exact)
        # Scaling the embeddings by two changes no unit row, and no gradient in the unscaled ones.
        require(error < 1e-5, f"{name} differs by {error:.1e}")
    return "fullgraph"


def _autocast(setting: Setting, backend: str, work: Workload) -> str:
    embeddings, labels = work.make()
    with fastdml.use_backend(backend):
        wanted = _step(embeddings, labels)
        with torch.autocast(setting.device, dtype=torch.bfloat16):
            found = _step(embeddings, labels)
    _same(found, wanted, "under autocast")
    return "the same bits"


def _need_gpu(setting: Setting) -> None:
    if not setting.on_gpu:
        raise SkippedError("needs a GPU")
