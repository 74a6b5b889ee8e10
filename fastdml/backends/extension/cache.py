"""Keeps built libraries in a folder of the user's, one subfolder for each set of sources and tools."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .compile import build
from .plan import MANIFEST, Part, Plan, family_of
from .toolchain import BuildError, Torch, build_mode

RETRY_AFTER = 3600.0
"""Seconds for which a failed build is not tried again, unless FASTDML_BUILD_EXT=1 asks for it."""


def cache_root() -> Path:
    """FASTDML_CACHE, or else fastdml in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("FASTDML_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "fastdml"


def cached(part: Part, csrc: Path, torch: Torch) -> Path | None:
    """The newest folder of the cache that holds `part` of these sources for this torch, by any compiler."""
    family = family_of(part, csrc, torch)
    prefix = f"{family}-"
    try:
        folders = [path for path in cache_root().iterdir() if path.name.startswith(prefix)]
    except OSError:
        return None
    complete = [path for path in folders if (path / MANIFEST[part]).is_file()]
    return max(complete, key=lambda path: path.stat().st_mtime, default=None)


def ensure(plan: Plan, announce: Callable[[], None] | None = None) -> tuple[Path, bool]:
    """The cache folder of `plan`, built under a lock where it is missing; and whether it was built now.

    Only one of several processes builds, the others wait for it. The lock is the operating system's, so a
    builder that dies lets go of it. A build appears under its name only when it is complete.
    """
    root = cache_root()
    folder = root / plan.key
    if (folder / MANIFEST[plan.part]).is_file():
        return folder, False
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{plan.key}.lock"):
            if (folder / MANIFEST[plan.part]).is_file():
                return folder, False
            log = root / f"{plan.key}.log"
            _raise_recent_failure(log)
            if announce is not None:
                announce()
            _build_and_rename(plan, root, folder, log)
    except OSError as error:
        raise BuildError(f"the cache folder {root} cannot be used: {error}") from error
    return folder, True


def _raise_recent_failure(log: Path) -> None:
    if build_mode() == "1" or not log.is_file():
        return
    if time.time() - log.stat().st_mtime < RETRY_AFTER:
        raise BuildError(f"the last build failed, see {log} (delete it or set FASTDML_BUILD_EXT=1 to retry)")


def _build_and_rename(plan: Plan, root: Path, folder: Path, log: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix=f"{plan.part}-work-", dir=root))
    try:
        product = work / "product"
        try:
            build(plan, work, product)
        except BuildError as error:
            if (work / "build.log").is_file():
                shutil.copyfile(work / "build.log", log)
            raise BuildError(str(error).replace(str(work / "build.log"), str(log))) from None
        if folder.exists():  # left without its record by something that broke off
            shutil.rmtree(folder)
        os.replace(product, folder)
        log.unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a+b") as file:
        _lock(file)
        yield


def _lock(file: IO[bytes]) -> None:
    """Waits for an exclusive lock, which closing the file (or dying) releases."""
    try:
        import fcntl
    except ImportError:
        return  # Windows: nothing is built there
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # no locks on this file system: two builders then do the same work, and the rename stays atomic
