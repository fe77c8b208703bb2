"""Process-wide settings, which a program may choose and a library must not: precision, threads, compilation cache.

Also checks whether a run fits into the memory of this machine.
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
"""Environment variables that restrict a process to one core; set them before it starts."""

CACHE_LIMIT = 2**30
"""Largest size of the compilation cache in bytes when a command starts; the least recently used files go first."""


def configure_dtype(dtype: str):
    """Switch JAX to 64 bits for float64, else to 32. The library never does this; a program may."""
    jax.config.update("jax_enable_x64", dtype == "float64")


def cache_compilations():
    """Cache compiled programs on disk, so that the next process with the same shapes does not compile.

    They go to the user's cache folder, or to JAX_COMPILATION_CACHE_DIR; JAX_ENABLE_COMPILATION_CACHE=0 switches the
    cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        limit_folder(cache_folder(), CACHE_LIMIT)
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def cache_folder() -> Path:
    """Folder of the compilation cache."""
    return user_cache_path("flossing") / "xla"


def limit_folder(folder: Path, limit: int):
    """Delete the least recently used files of a folder until the rest take up at most `limit` bytes.

    JAX has its own limit, but enforces it by reading the whole folder at every compilation. With the thousands of small
    programs that some sweeps leave behind, that takes longer than compiling.
    """
    total = 0
    for path, status in sorted(_files(folder), key=lambda file: max(file[1].st_atime, file[1].st_mtime), reverse=True):
        total += status.st_size
        if total > limit:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process may have deleted it
            yield path, path.stat()


def check_fits(needs: Mapping[str, int], dtype: str):
    """Raise ValueError, naming the largest array, if arrays with `needs` entries exceed this machine's memory."""
    size = np.dtype(dtype).itemsize
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size * sum(needs.values()) > available:
        largest = max(needs, key=lambda name: needs[name])
        raise ValueError(
            f"arrays must fit into the {available / 2**30:.0f} GiB of this machine, "
            f"got {largest} ({size * needs[largest] / 2**30:.3g} GiB)"
        )


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
