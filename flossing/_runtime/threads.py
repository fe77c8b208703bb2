"""One thread for LAPACK: on matrices of the size of a recurrent network, several threads slow each other down.

QR with OpenBLAS on two cores took 160 us with one thread and 400 us with two at 256 x 64, 1.2 ms and 2.5 ms at
512 x 128, 19 ms and 24 ms at 1000 x 500 (tall matrices no longer use LAPACK's QR). Matrix products are XLA's own and
keep all threads.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import scipy.linalg  # noqa: F401  (loads the LAPACK that JAX calls on the CPU, so that threadpoolctl finds it)
from threadpoolctl import ThreadpoolController


@contextmanager
def one_lapack_thread() -> Iterator[None]:
    """A context in which LAPACK uses one thread; wait for the result before leaving it."""
    with _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas"):
        yield


@functools.lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    # Finding the thread pools takes milliseconds, longer than a short epoch. Imports usually load the libraries, so
    # search again only when the number of imported modules has changed.
    return ThreadpoolController().select(user_api="blas")
