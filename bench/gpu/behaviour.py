"""How fused losses behave on a device: bits repeat, any stream, graphs, no waiting, compiled, autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

import fastdml
from bench.gpu.proof import Setting, SkippedError, relative_error, require
from bench.gpu.subjects import SUBJECTS, Make, Subject
from bench.workload import Workload

Cases = Iterator[tuple[str, Callable[[], str]]]


def repeat(setting: Setting, backend: str) -> Cases:
    """Two runs agree in every bit of loss and gradients."""
    sizes = [(200, 40)] if setting.tiny else [(512, 128), (4096, 128), (4096, 512), (16400, 256)]
    for name, make in SUBJECTS[setting.engine].items():
        for samples, width in sizes:
            for dtype in setting.dtypes:
                work = Workload(samples, width, dtype, setting.device)
                yield f"{name}, {work}", partial(_repeat, backend, make, work)


def stream(setting: Setting, backend: str) -> Cases:
    """On a stream of its own, behind a long wait: on the wrong stream it would read what is not there yet."""
    for name, make in SUBJECTS[setting.engine].items():
        yield f"{name}, side stream", partial(_stream, setting, backend, make)


def graph(setting: Setting, backend: str) -> Cases:
    """Forward and backward captured once, replayed on other embeddings and centres."""
    for name, make in SUBJECTS[setting.engine].items():
        for width in (128, 512):
            work = Workload(1000, width, "float32", setting.device)
            yield f"{name}, replay, D {width}", partial(_graph, setting, backend, make, work)


def sync(setting: Setting, backend: str) -> Cases:
    """Neither forward nor backward waits for the device."""
    for name, make in SUBJECTS[setting.engine].items():
        yield f"{name}, forward and backward", partial(_sync, setting, backend, make)


def compiled(setting: Setting, backend: str) -> Cases:
    """torch.compile takes it whole, and the values stay."""
    for name, make in SUBJECTS[setting.engine].items():
        yield f"{name}, fullgraph", partial(_compiled, setting, backend, make)


def autocast(setting: Setting, backend: str) -> Cases:
    """Autocast changes nothing: embeddings and centres keep their dtype."""
    for name, make in SUBJECTS[setting.engine].items():
        yield f"{name}, bfloat16 around float32", partial(_autocast, setting, backend, make)


def _small(setting: Setting) -> Workload:
    return Workload(160 if setting.tiny else 1000, 40 if setting.tiny else 128, "float32", setting.device)


def _named(found: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    names = ("loss", "gradient", "gradient of centres")
    return zip(names, found, strict=False)


def _same(found: Sequence[Tensor], wanted: Sequence[Tensor], what: str) -> None:
    for (name, a), b in zip(_named(found), wanted, strict=True):
        difference = relative_error(a, b)
        require(torch.equal(a, b), f"{what}: {name} differs by {difference:.1e}")
        require(bool(b.isfinite().all()), f"{what}: {name} is not finite")


def _repeat(backend: str, make: Make, work: Workload) -> str:
    subject = make(work)
    with fastdml.use_backend(backend):
        first = subject.step()
        for _ in range(3):
            _same(subject.step(), first, "a later run")
    return "4 runs, the same bits"


def _stream(setting: Setting, backend: str, make: Make) -> str:
    _need_gpu(setting)
    subject = make(_small(setting))
    with fastdml.use_backend(backend):
        wanted = subject.step()
        values = _values(subject)
        subject.write([torch.full_like(value, float("nan")) for value in values])
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
            subject.write(values)
            found = subject.step()
        side.synchronize()
    _same(found, wanted, "behind a wait on another stream")
    return "the same bits"


def _graph(setting: Setting, backend: str, make: Make, work: Workload) -> str:
    _need_gpu(setting)
    subject = make(work)
    _need_no_wait(subject)
    with fastdml.use_backend(backend):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                subject.step()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            found = subject.step()
        subject.write([value.flip(0) * 1.5 for value in _values(subject)])
        captured.replay()
        torch.cuda.synchronize()
        wanted = subject.step()
    _same(found, wanted, "replayed")
    return "the same bits"


def _values(subject: Subject) -> list[Tensor]:
    """Copies of the leaves."""
    return [leaf.detach().clone() for leaf in subject.leaves]


def _sync(setting: Setting, backend: str, make: Make) -> str:
    _need_gpu(setting)
    subject = make(_small(setting))
    _need_no_wait(subject)
    with fastdml.use_backend(backend):
        subject.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            subject.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "no wait"


def _compiled(setting: Setting, backend: str, make: Make) -> str:
    subject = make(_small(setting))
    _need_no_wait(subject)
    with fastdml.use_backend(backend):
        wanted = subject.step()
        torch._dynamo.reset()
        whole = torch.compile(lambda rows: subject.loss(2 * rows), fullgraph=True)
        loss = whole(subject.leaves[0])
        found = [loss.detach(), *torch.autograd.grad(loss, subject.leaves)]
    for (name, value), exact in zip(_named(found), wanted, strict=True):
        error = relative_error(value, exact)
        # Scaling the embeddings by two changes no unit row, and no gradient in the unscaled ones.
        require(error < 1e-5, f"{name} differs by {error:.1e}")
    return "fullgraph"


def _autocast(setting: Setting, backend: str, make: Make) -> str:
    subject = make(_small(setting))
    with fastdml.use_backend(backend):
        wanted = subject.step()
        with torch.autocast(setting.device, dtype=torch.bfloat16):
            found = subject.step()
    _same(found, wanted, "under autocast")
    return "the same bits"


def _need_gpu(setting: Setting) -> None:
    if not setting.on_gpu:
        raise SkippedError("needs a GPU")


def _need_no_wait(subject: Subject) -> None:
    if subject.reads_back:
        raise SkippedError(f"reads {subject.reads_back} back from the device")
