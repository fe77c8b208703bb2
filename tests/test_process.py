"""What a program decides for its whole process."""

import os
import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from flossing._threads import one_lapack_thread
from flossing.experiment.process import limit_folder


def lapack_threads():
    """Those of each BLAS that is loaded."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_lapack_keeps_to_one_thread_until_the_last_has_left():
    """Whoever comes first may leave first, and the user's number is there again in the end."""
    entered, leave, seen = threading.Event(), threading.Event(), {}

    def measure():
        with one_lapack_thread():
            entered.set()
            leave.wait(60)
            seen["other"] = lapack_threads()

    with threadpool_limits(2, user_api="blas"):
        before, other = lapack_threads(), threading.Thread(target=measure)
        with one_lapack_thread():
            other.start()
            assert entered.wait(60)
            seen["ours"] = lapack_threads()
        leave.set()
        other.join()
        assert lapack_threads() == before
    if 2 not in before.values():
        pytest.skip("this machine gives LAPACK one thread")
    assert all(set(threads.values()) == {1} for threads in seen.values())


def test_a_folder_keeps_what_was_used_last(tmp_path):
    for age, name in enumerate(["newest", "second", "third", "oldest"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    os.utime(tmp_path / "third", (2e9, 1e9 - 2))  # read since
    limit_folder(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "third"}
    limit_folder(tmp_path / "none", 25)
