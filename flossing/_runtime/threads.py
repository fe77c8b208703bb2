"""One thread for LAPACK: on matrices of a recurrent network's size, several get in each other's way.

QR with OpenBLAS on two cores took 160 us with one thread and 400 us with two at 256 x 64, 1.2 ms and 2.5 ms at
512 x 128, 19 ms and 24 ms at 1000 x 500 (the tall ones are done without LAPACK's QR since). Matrix products are XLA's
own and keep all threads.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import scipy.linalg  # noqa: F401  (loads the LAPACK that JAX calls on the CPU, which is then found)
from threadpoolctl import ThreadpoolController


@contextmanager
def one_lapack_thread() -> Iterator[None]:
    """Within it, and not after it, LAPACK keeps to one thread; block until the result is there before leaving."""
    with _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas"):
        yield


@functools.lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    # To find them takes milliseconds, longer than many an epoch. A library comes with a module, as a rule, so they are
    # looked for again when the number of imported modules has changed.
    return ThreadpoolController().select(user_api="blas")
