"""Jobs on dask workers, in processes of this machine or of a cluster. A job is a function with its arguments.

Dask starts workers, assigns jobs, notices when a worker dies and gives its job to another. A job writes its results to
disk and returns only a one-line error message if it failed. JAX computes only in the workers.
"""

import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flossing_lab.runs.console import Status
from flossing_lab.runs.provenance import code_digest
from flossing_lab.runs.toml_file import one_line

if TYPE_CHECKING:
    import distributed

MAX_WORKER_DEATHS = 10
"""A job may lose this many workers. If it loses one more, it runs again alone, and may lose as many once more."""

MAX_CACHED_KINDS = 4
"""Kinds of jobs whose compiled programs a worker holds in memory, 150 MB each. Runs of a kind differ in seeds only."""

_kinds: set[str] = set()
_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?[^\s/]+:\d{1,5}")


class Job(NamedTuple):
    """`function(*arguments, on_progress)`, to call in a worker; a module-level function, which is pickled by name."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def check_workers(command: str, workers: int | None, scheduler: str | None):
    """Raise ValueError if `workers` or `scheduler` is illegal, or if the extra that the command needs is missing."""
    if workers is not None and (workers < 1 or scheduler is not None):
        raise ValueError(f"workers must be at least 1, and left out with scheduler, got workers={workers}")
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise ValueError(f"scheduler must be an address such as tcp://127.0.0.1:8786, got scheduler={scheduler!r}")
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ValueError(f"flossing {command} needs the extra [lab]: pip install 'flossing[lab]'") from None


def run_jobs(
    jobs: Mapping[str, Job], *, workers: int | None, scheduler: str | None, console: Console
) -> dict[str, str]:
    """Run all jobs; return the one-line error messages of failed jobs by name. Progress goes to the console.

    The jobs use `workers` processes of this machine, by default one per usable core, or the cluster at the address
    `scheduler`. Raises KeyboardInterrupt after Ctrl-C, once all running jobs have stopped.
    """
    with _connected(workers, scheduler, len(jobs)) as client, ProgressBoard(len(jobs), console) as board:
        say(console, f"dashboard   {client.dashboard_link}")
        return _execute(client, jobs, board)


def begin_job(kind: str):
    """In a worker: use the compilation cache, and keep the compiled programs of a few kinds of jobs in memory."""
    import jax

    from flossing_lab.runs.process import cache_compilations

    cache_compilations()
    _kinds.add(kind)
    if len(_kinds) > MAX_CACHED_KINDS:
        jax.clear_caches()  # they reload quickly from disk
        _kinds.clear()
        _kinds.add(kind)


def say(console: Console, text: str):
    """Print plain text."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _execute(client: "distributed.Client", jobs: Mapping[str, Job], board: "ProgressBoard") -> dict[str, str]:
    from distributed import KilledWorker, as_completed

    topic = f"flossing-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: board.follow(*event[1]))
    failures: dict[str, str] = {}

    def end(name: str, error: str | None):
        if error is not None:
            failures[name] = error
        board.end(name, failed=error is not None)

    def attempt(names: list[str]) -> list[str]:
        # Returns the jobs that lost too many workers. Futures are released once they are done: dask would rerun one if
        # the worker that holds its result died.
        group, lost = f"flossing-{uuid.uuid4().hex[:8]}", []
        keys, asked = [(group, name) for name in names], [jobs[name] for name in names]
        done = client.map(_do, asked, names, topic=topic, code=code_digest(), key=keys, pure=False)
        for future in as_completed(done, loop=client.loop):
            _, name = future.key
            try:
                end(name, future.result())
            except KilledWorker:
                lost.append(name)
            except CancelledError:
                end(name, "the scheduler is gone or gave up the job")
            except Exception as error:
                end(name, one_line(f"{type(error).__name__}: {error}"))
        return lost

    # Any job that a worker held when it died may be the cause. When run alone, only that job loses its worker again.
    for name in attempt(list(jobs)):
        if attempt([name]):
            end(name, "every worker that took it up died")
    return failures


def _do(job: Job, name: str, topic: str, code: str) -> str | None:
    # In a worker: complete one job. Return an error as text, since not every exception can be pickled.
    if code_digest() != code:
        return f"workers must run the code of this command, got another version of flossing on {socket.gethostname()}"
    try:
        job.function(*job.arguments, _Reporter(topic, name))
    except (Exception, _Cancelled) as error:
        return one_line(f"{type(error).__name__}: {error}")
    return None


class _Cancelled(KeyboardInterrupt):
    """The client that submitted this job is gone; the job stops as after Ctrl-C."""


class _Reporter:
    """In a worker: reports the progress of a job to the client, at most once a second."""

    def __init__(self, topic: str, name: str):
        from distributed import get_worker

        self._worker, self._topic, self._name = get_worker(), topic, name
        self._task = self._worker.state.tasks[self._worker.get_current_task()]
        self._told = -1.0

    def __call__(self, status: Status):
        # Dask does not stop a running task; it only marks it as cancelled.
        if self._task.state == "cancelled":
            raise _Cancelled("the command was stopped")
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._worker.log_event(self._topic, [self._name, status.done / status.total])


class ProgressBoard:
    """The progress display of all jobs: a live line on a terminal, a plain line now and then in a log."""

    def __init__(self, jobs: int, console: Console):
        self._jobs, self._console, self._live = jobs, console, console.is_terminal
        self._shares: dict[str, float] = {}
        self._ended = self._failed = 0
        self._given = 0.0  # done in an earlier session, or never to be done: left out of our pace
        self._began = self._printed_at = time.monotonic()
        self._printed = 0.0
        self._lock = threading.Lock()
        self._bars = Progress(
            BarColumn(bar_width=12), TextColumn("{task.fields[text]}"), console=console, disable=not self._live
        )
        self._bar = self._bars.add_task("", total=jobs, text="starting workers")

    def __enter__(self) -> "ProgressBoard":
        self._bars.start()
        return self

    def __exit__(self, *_: object):
        self._bars.stop()

    def follow(self, name: str, share: float):
        """Record the share of a job that is done."""
        with self._lock:
            if not self._shares:
                self._began = time.monotonic()
            if name not in self._shares:
                self._given += share
            self._shares[name] = share
            self._show()

    def end(self, name: str, *, failed: bool):
        """Record the end of a job."""
        with self._lock:
            if failed:
                self._given += 1.0 - self._shares.get(name, 0.0)
            self._ended, self._failed = self._ended + 1, self._failed + failed
            self._shares[name] = 1.0
            self._show()

    def _show(self):
        now, done = time.monotonic(), sum(self._shares.values())
        text = self._text(now, done)
        self._bars.update(self._bar, completed=done, text=text)
        due = done - self._printed >= 0.1 * self._jobs or now - self._printed_at > 600 or self._ended == self._jobs
        if due and not self._live:
            self._printed, self._printed_at = done, now
            say(self._console, text)

    def _text(self, now: float, done: float) -> str:
        running = len(self._shares) - self._ended
        parts = [f"{self._ended - self._failed} of {self._jobs} finished"]
        if running:  # jobs that report no progress count only once they end
            parts.append(f"{running} running")
        if self._failed:
            parts.append(f"{self._failed} failed")
        parts.append(f"{done / self._jobs:.0%} done")
        gained = done - self._given
        if gained > 0 and self._ended < self._jobs:
            left = (self._jobs - done) / gained * (now - self._began)
            parts.append(f"{timedelta(seconds=int(left))} left")
        return "  ".join(parts)


@contextmanager
def _connected(workers: int | None, scheduler: str | None, jobs: int) -> Iterator["distributed.Client"]:
    # The client of our own cluster, which stops on exit, or of the cluster at the address `scheduler`.
    import dask.config
    from distributed import Client, LocalCluster

    from flossing_lab.runs.process import ONE_THREAD, cores

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=10, set_as_default=False)
        except OSError as error:
            raise ValueError(f"scheduler must run at its address, got {scheduler!r}: {one_line(str(error))}") from None
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": MAX_WORKER_DEATHS,
        # A worker holds only the job it works on, so its death implicates few other jobs.
        "distributed.scheduler.worker-saturation": 1.0,
        # Dead workers are restarted. By default, dask also gives up any slot whose worker is dead 15 s after a death,
        # even after the death of another worker; and it waits for ever once no slot is left.
        "distributed.deploy.lost-worker-timeout": "1000 days",
        "distributed.scheduler.no-workers-timeout": "5 minutes",
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(settings), _environment(ONE_THREAD):
        with _deaf_to_ctrl_c():
            cluster = LocalCluster(
                n_workers=min(workers or cores(), jobs),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{_dashboard_port()}",
                memory_limit=None,
                silence_logs=logging.ERROR,
            )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


def _dashboard_port() -> int:
    # Dask's default port, or any free port if that one is taken, which avoids a warning from dask.
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
    return 8787


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    # New threads and processes inherit the blocked signal. Ctrl-C, which reaches every process of a terminal, then
    # stops only the client, which stops its workers. The resource tracker must start first: that unblocks it.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    # New processes inherit it, including those that dask starts to replace dead ones.
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
