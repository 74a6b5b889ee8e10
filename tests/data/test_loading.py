"""Chunks come in order whatever reads them; read-ahead is bounded; errors and ends of workers are clear."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fastdml.data import Split
from fastdml.data.images import ImageFiles, UnreadableImageError
from fastdml.data.loading import WorkerError, load_chunks
from fastdml.errors import InputError

_DAMAGED = (5, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 0.png to 11.png of 6 x 4 pixels, each all of its number; two of them are damaged."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(12):
        path = folder / f"{i}.png"
        Image.new("RGB", (6, 4), (i, i, i)).save(path)
        if i in _DAMAGED:
            path.write_bytes(path.read_bytes()[:40])
    return folder


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


@pytest.fixture
def _two_threads() -> Iterator[None]:
    """torch works with two threads, and so makes some in a worker too, before it is set to one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def split_of(store: Tensor | ImageFiles) -> Split:
    everything = torch.ones(len(store), dtype=torch.bool)
    labels = torch.zeros(len(store), dtype=torch.int64)
    return Split("files", store, labels, ("one",), everything, everything)


def files(folder: Path, on_error: str = "skip", kind: type[ImageFiles] = ImageFiles) -> Split:
    paths = [folder / f"{i}.png" for i in range(12)]
    return split_of(kind(paths, (4, 6), on_error=on_error))  # type: ignore[arg-type]


class Uneven(ImageFiles):
    """Takes longer for lower rows, so that workers finish out of turn."""

    def read(self, i: int) -> Tensor | None:
        time.sleep(0.02 * (12 - i))
        return super().read(i)


class ThreadCount(ImageFiles):
    """An image says how many threads torch uses where it is read."""

    def read(self, i: int) -> Tensor | None:
        return torch.full((3, 4, 6), torch.get_num_threads(), dtype=torch.uint8)


class Killed(ImageFiles):
    """Row 3 kills its reader as the system does when memory runs out."""

    def read(self, i: int) -> Tensor | None:
        if i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i)


class NoRoom(ImageFiles):
    """Limits what its reader may write to a file, shared memory too, below the size of a chunk."""

    def read(self, i: int) -> Tensor | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
        return super().read(i)


class Broken(ImageFiles):
    """A mistake in the program, not in a file."""

    def read(self, i: int) -> Tensor | None:
        raise ZeroDivisionError("a slip")


CHUNKS = [
    torch.tensor(rows, dtype=torch.int64) for rows in ([0, 7], [5], [11, 10, 9, 8], [], [2, 2, 5], [9, 5, 1])
]
KEPT = [[0, 7], [], [11, 10, 8], [], [2, 2], [1]]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_chunks_come_in_order_without_what_cannot_be_read(folder: Path, workers: int) -> None:
    told: list[Path] = []
    split = files(folder, kind=Uneven)
    loaded = list(load_chunks(split, CHUNKS, workers, on_skip=told.append))
    assert [chunk.rows.tolist() for chunk in loaded] == KEPT
    for chunk in loaded:
        assert chunk.rows.dtype == torch.int64
        assert chunk.images.dtype == torch.uint8
        expected = chunk.rows.to(torch.uint8)[:, None, None, None].expand(len(chunk.rows), 3, 4, 6)
        assert torch.equal(chunk.images, expected)
    assert told == [folder / "5.png", folder / "9.png"]  # once each, though asked for more often


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_warned_of_by_default(folder: Path, workers: int) -> None:
    with pytest.warns(UserWarning, match=r"5.png cannot be read as an image and is left out"):
        list(load_chunks(files(folder), [torch.tensor([4, 5])], workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_ends_the_run_with_its_path(folder: Path, workers: int) -> None:
    chunks = [torch.tensor([0, 1]), torch.tensor([8, 9])]
    with load_chunks(files(folder, "stop"), chunks, workers) as loaded:
        assert next(loaded).rows.tolist() == [0, 1]
        with pytest.raises(UnreadableImageError, match=r"9.png cannot be read as an image") as caught:
            next(loaded)
    assert caught.value.path == str(folder / "9.png")


@pytest.mark.parametrize("workers", [1, 2])
def test_endless_chunks_are_read_ahead_by_two_a_worker_at_most(folder: Path, workers: int) -> None:
    taken = 0

    def endless() -> Iterator[Tensor]:
        nonlocal taken
        for taken in count(1):
            yield torch.tensor([taken % 5])

    with load_chunks(files(folder), endless(), workers) as loaded:
        assert taken == 0
        for handed_out, chunk in enumerate(islice(loaded, 7), start=1):
            assert chunk.rows.tolist() == [handed_out % 5]
            assert handed_out < taken <= handed_out + 2 * workers
        assert len(multiprocessing.active_children()) == workers
    assert multiprocessing.active_children() == []
    assert next(loaded, None) is None


def test_reading_here_takes_no_chunk_ahead(folder: Path) -> None:
    chunks = iter([torch.tensor([i]) for i in range(5)])
    next(load_chunks(files(folder), chunks))
    assert len(list(chunks)) == 4


@pytest.mark.parametrize(
    "images",
    [
        torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 1, 2, 2),
        torch.arange(12, dtype=torch.float32)[:, None].expand(12, 5),
    ],
)
def test_tensors_need_no_processes(images: Tensor) -> None:
    rows = torch.tensor([3, 1, 3])
    with load_chunks(split_of(images), [rows, rows[:1]], workers=2) as loaded:
        first = next(loaded)
        assert multiprocessing.active_children() == []
        assert torch.equal(first.images, images[rows])
        assert first.images.dtype == images.dtype
        assert torch.equal(next(loaded).images, images[3:4])


def test_workers_change_neither_the_global_generator_nor_the_handlers_of_signals(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = [signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)]
    with load_chunks(files(folder), [torch.tensor([1])] * 3, workers=1) as loaded:
        next(loaded)
        assert torch.equal(torch.rand(3), expected)
        after = [signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)]
    assert after == before


@pytest.mark.usefixtures("_two_threads")
def test_workers_use_one_thread_each(folder: Path) -> None:
    with load_chunks(files(folder, kind=ThreadCount), [torch.tensor([0])], workers=1) as loaded:
        assert int(next(loaded).images.max()) == 1


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_signals_to_the_whole_group_leave_workers_to_their_parent(folder: Path, name: str) -> None:
    with load_chunks(files(folder), (torch.tensor([i % 5]) for i in count()), workers=1) as loaded:
        next(loaded)
        (child,) = multiprocessing.active_children()
        subprocess.run(["kill", f"-{name}", str(child.pid)], check=True)
        assert [chunk.rows.item() for chunk in islice(loaded, 6)] == [1, 2, 3, 4, 0, 1]
        assert multiprocessing.active_children() == [child]


def test_a_parent_can_end_its_worker_by_sigterm(folder: Path) -> None:
    with load_chunks(files(folder), (torch.tensor([0]) for _ in count()), workers=1) as loaded:
        next(loaded)
        (child,) = multiprocessing.active_children()
        child.terminate()
        child.join(5)
        assert child.exitcode == 0


def test_killed_worker_is_told_from_other_errors(folder: Path) -> None:
    chunks = [torch.tensor([i]) for i in range(6)]
    with (
        load_chunks(files(folder, kind=Killed), chunks, workers=1) as loaded,
        pytest.raises(WorkerError, match=r"ended by SIGKILL while it read images.*memory.*use fewer workers"),
    ):
        list(loaded)


def test_full_shared_memory_is_an_error(folder: Path) -> None:
    chunks = [torch.arange(4)] * 3
    with (
        load_chunks(files(folder, kind=NoRoom), chunks, workers=1) as loaded,
        pytest.raises(WorkerError, match=r"0.0 MiB found no room in /dev/shm .*use fewer workers"),
    ):
        next(loaded)


def test_mistakes_in_reading_keep_their_type_and_say_where(folder: Path) -> None:
    with (
        load_chunks(files(folder, kind=Broken), [torch.tensor([0])], workers=1) as loaded,
        pytest.raises(ZeroDivisionError, match=r"(?s)in read\n.*a slip"),
    ):
        next(loaded)


def test_fork_server_serves_once_cuda_is_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    chunks = [torch.tensor([4]), torch.tensor([5, 6]), *[torch.tensor([1])] * 4]
    with load_chunks(files(folder), chunks, workers=1, on_skip=lambda path: None) as loaded:
        assert next(loaded).rows.tolist() == [4]
        (child,) = multiprocessing.active_children()
        assert type(child).__name__ == "ForkServerProcess"
        assert next(loaded).images.unique().tolist() == [6]


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (
            torch.tensor([0, 12]),
            r"chunks must hold rows in \[0, 11\], the images of the split, got \[0, 12\]",
        ),
        (torch.tensor([-1]), r"got \[-1, -1\]"),
        (torch.tensor([0.5]), r"chunks must be int64 tensors \[n\], got torch.float32 \[1\]"),
        (torch.tensor([[1]]), r"got torch.int64 \[1, 1\]"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_wrong_chunks_are_named(folder: Path, chunk: Tensor, message: str, workers: int) -> None:
    with load_chunks(files(folder), [chunk], workers) as loaded, pytest.raises(InputError, match=message):
        next(loaded)


def test_negative_workers_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="workers must be at least 0, got -1"):
        load_chunks(files(folder), [], -1)
