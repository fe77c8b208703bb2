"""A directory that one process writes at a time: of a run, a sweep, a trial or the paper."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flossing_lab.runs.files import remove_temporary_files

_LOCK = ".lock"
PATIENCE = 10.0
"""Seconds to wait for a directory that is in use."""


def check_directory(out: Path, what: str, mark: str, ours: Collection[str]):
    """Raise ValueError unless `out` is new, empty, or the directory of a `what`, such as a sweep.

    Such a directory holds the file or folder `mark`, or only names in `ours`, which a killed process may leave behind.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a directory, got {str(out)!r}, which is a file")
    if out.is_dir() and not (out / mark).exists():
        others = [path.name for path in out.iterdir() if path.name not in (*ours, _LOCK) and path.suffix != ".part"]
        if others:
            raise ValueError(f"out must be new, empty or of a {what}, got {str(out)!r}, which holds {min(others)!r}")


@contextmanager
def locked(out: Path, what: str, mark: str, ours: Collection[str]) -> Iterator[None]:
    """Lock the directory of a `what` for one process, and create it if needed. The lock ends with the process.

    Raises ValueError as `check_directory` does, and if the directory is in use or cannot be written.
    """
    check_directory(out, what, mark, ours)
    lock = FileLock(out / _LOCK, timeout=PATIENCE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(f"out must not be in use, got {str(out)!r}, where another process is at work") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(f"out must be a directory that can be written, got {str(out)!r}: {why}") from None
    try:
        remove_temporary_files(out)
        yield
    finally:
        lock.release()
