"""One thread for LAPACK: on matrices of the size of a recurrent network, several threads slow each other down.

QR with OpenBLAS on two cores took 160 us with one thread and 400 us with two at 256 x 64, 1.2 ms and 2.5 ms at
512 x 128, 19 ms and 24 ms at 1000 x 500 (tall matrices no longer use LAPACK's QR). Matrix products are XLA's own and
keep all threads.
"""

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import scipy.linalg  # noqa: F401  (loads the LAPACK that JAX calls on the CPU, so that threadpoolctl finds it)
from threadpoolctl import ThreadpoolController

_held = threading.Lock()
_holder: tuple[int, Any] | None = None
"""The thread that holds the limit, and its limiter."""


@contextmanager
def one_lapack_thread() -> Iterator[None]:
    """A context in which LAPACK uses one thread; wait for the result before leaving it.

    The limit belongs to the process. The first thread in holds it and lifts it when it leaves; until then it serves the
    others. If each restored the limit that it had found, one of them would restore another's, for good.
    """
    # The last one out cannot lift it instead: from version 3.8 on, threadpoolctl ignores all threads but the first.
    global _holder
    if not _held.acquire(blocking=False):
        yield
        return
    try:
        with _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas") as limiter:
            _holder = threading.get_ident(), limiter
            yield
    finally:
        _holder = None
        _held.release()


def _lift_in_child():
    """In a forked process only the thread that forked goes on: no other will lift its limit there."""
    global _held, _holder
    if _holder is not None and _holder[0] != threading.get_ident():
        _holder[1].restore_original_limits()
        _held, _holder = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_lift_in_child)


@functools.lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    # Finding the thread pools takes milliseconds, longer than a short epoch. Imports usually load the libraries, so
    # search again only when the number of imported modules has changed.
    return ThreadpoolController().select(user_api="blas")
