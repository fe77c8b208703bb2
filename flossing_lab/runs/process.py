"""What a program decides for its whole process and a library must not: precision, threads, where compilations go.

And what its machine can bear.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from platformdirs import user_cache_path

ONE_THREAD = {
    "NPROC": "1",  # the size of XLA's thread pool on the CPU
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""The environment of a process that shall keep to one core, set before it starts."""

CACHE_LIMIT = 2**30
"""Bytes of compilations that a start leaves on disk; the least recently used go first."""


def configure_dtype(dtype: str):
    """Switch JAX to 64 bits if asked for float64. The library never does this; a program of its own may."""
    jax.config.update("jax_enable_x64", dtype == "float64")


def cache_compilations():
    """Keep compiled programs on disk, so that a second start of the same shapes does not compile.

    They go to the user's cache folder, or to JAX_COMPILATION_CACHE_DIR; JAX_ENABLE_COMPILATION_CACHE=0 switches the
    cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        limit_folder(cache_folder(), CACHE_LIMIT)
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def cache_folder() -> Path:
    """Where compiled programs are kept."""
    return user_cache_path("flossing") / "xla"


def limit_folder(folder: Path, limit: int):
    """Delete the files of a folder that were used longest ago, until the rest take up at most `limit` bytes.

    JAX has such a limit of its own, but reads the whole folder for it at every compilation: with the thousands of small
    programs that some sweeps leave behind, that takes longer than to compile.
    """
    kept = 0
    for path, status in sorted(_files(folder), key=lambda file: max(file[1].st_atime, file[1].st_mtime), reverse=True):
        kept += status.st_size
        if kept > limit:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process tidies up, too
            yield path, path.stat()


def check_fits(needs: Mapping[str, int], dtype: str):
    """Raise ValueError, naming the largest, if arrays of so many entries would not fit into this machine."""
    size = np.dtype(dtype).itemsize
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size * sum(needs.values()) > there:
        largest = max(needs, key=lambda name: needs[name])
        raise ValueError(
            f"arrays must fit into the {there / 2**30:.0f} GiB of this machine, "
            f"got {largest} ({size * needs[largest] / 2**30:.3g} GiB)"
        )


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
