"""What tests of threads run in processes of their own; imports no more than it needs."""

import os
import threading

from threadpoolctl import threadpool_info

from flossing._runtime.threads import one_lapack_thread

__all__ = ["blas_threads", "one_lapack_thread", "os", "overlap", "threading"]


def blas_threads():
    """The threads of each BLAS library of this process."""
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def overlap(leaves_first):
    """Two threads inside at once; the first or the second to enter leaves first."""
    inside = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def work(i):
        with one_lapack_thread():
            inside[i].set()
            leave[i].wait()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread, entered in zip(threads, inside, strict=True):
        thread.start()
        entered.wait()
    assert set(blas_threads()) == {1}
    for i in (leaves_first, 1 - leaves_first):
        leave[i].set()
        threads[i].join()
