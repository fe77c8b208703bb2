"""Jobs on the workers of dask: a function and its arguments each, done in processes of this machine or of a cluster.

Dask starts workers, hands out jobs, notices a dead worker and gives its job to another. What a job makes is on the
disk; what travels back is a line for one that failed. JAX computes in the workers alone.
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
from flossing_lab.sweeps.spec import one_line

if TYPE_CHECKING:
    import distributed

KILLS = 10
"""A job may lose so many workers; the next one that it loses is taken for its own fault."""

KINDS = 4
"""A worker keeps in memory what is compiled for so many kinds of jobs, 150 MB each; runs of a kind differ in seeds."""

_kinds: set[str] = set()
_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?[^\s/]+:\d{1,5}")


class Job(NamedTuple):
    """`function(*arguments, on_progress)`, to be called in a worker; a function of a module, which travels by name."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def check_workers(command: str, workers: int | None, scheduler: str | None):
    """Raise ValueError if these cannot be the workers of a command, or if the extra that it needs is not there."""
    if workers is not None and (workers < 1 or scheduler is not None):
        raise ValueError(f"workers must be at least 1, and left out with scheduler, got workers={workers}")
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise ValueError(f"scheduler must be an address such as tcp://127.0.0.1:8786, got scheduler={scheduler!r}")
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ValueError(f"flossing {command} needs the extra [runs]: pip install 'flossing[runs]'") from None


def run_jobs(
    jobs: Mapping[str, Job], *, workers: int | None, scheduler: str | None, console: Console
) -> dict[str, str]:
    """Do all jobs; what stopped those that failed, in one line, by name. Progress goes to the console.

    On `workers` processes of this machine, by default one for each usable core, or on those of the cluster at the
    address `scheduler`. Raises KeyboardInterrupt after Ctrl-C, when all that was at work has stopped.
    """
    with _connected(workers, scheduler, len(jobs)) as client, Board(len(jobs), console) as board:
        say(console, f"dashboard   {client.dashboard_link}")
        return _execute(client, jobs, board)


def evict_compilations(kind: str):
    """In a worker: say of what kind the job is, so that compiled programs of few kinds are held in memory."""
    import jax

    from flossing_lab.runs.process import cache_compilations

    cache_compilations()
    _kinds.add(kind)
    if len(_kinds) > KINDS:
        jax.clear_caches()  # from the disk they are soon back
        _kinds.clear()


def say(console: Console, text: str):
    """Print plain text."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _execute(client: "distributed.Client", jobs: Mapping[str, Job], board: "Board") -> dict[str, str]:
    from distributed import KilledWorker, as_completed

    topic = f"flossing-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: board.follow(*event[1]))
    failures: dict[str, str] = {}

    def end(name: str, error: str | None):
        if error is not None:
            failures[name] = error
        board.end(name, failed=error is not None)

    def attempt(names: list[str]) -> list[str]:
        # Returns the jobs that lost too many workers. No future is kept once it is done: dask would run it anew if
        # the worker that holds its answer died.
        group, lost = f"flossing-{uuid.uuid4().hex[:8]}", []
        keys, asked = [(group, name) for name in names], [jobs[name] for name in names]
        done = as_completed(client.map(_do, asked, names, topic=topic, key=keys, pure=False), loop=client.loop)
        for future in done:
            _, name = future.key
            try:
                end(name, future.result())
            except KilledWorker:
                lost.append(name)
            except CancelledError:
                end(name, "the scheduler is gone, or gave it up")
            except Exception as error:
                end(name, one_line(f"{type(error).__name__}: {error}"))
        return lost

    # All jobs that a worker held when it died are under suspicion. Alone, only the guilty one loses it again.
    for name in attempt(list(jobs)):
        if attempt([name]):
            end(name, "every worker that took it up died")
    return failures


def _do(job: Job, name: str, topic: str) -> str | None:
    # In a worker: one job to its end. What stopped it goes back as text, since not every exception travels well.
    try:
        job.function(*job.arguments, _Reporter(topic, name))
    except (Exception, _Cancelled) as error:
        return one_line(f"{type(error).__name__}: {error}")
    return None


class _Cancelled(KeyboardInterrupt):
    """Whoever wanted this job is gone; it stops as after Ctrl-C."""


class _Reporter:
    """In a worker: tells the client how far a job is, at most once a second."""

    def __init__(self, topic: str, name: str):
        from distributed import get_worker

        self._worker, self._topic, self._name = get_worker(), topic, name
        self._task = self._worker.state.tasks[self._worker.get_current_task()]
        self._told = -1.0

    def __call__(self, status: Status):
        # Dask does not stop a task that runs already, it only marks it.
        if self._task.state == "cancelled":
            raise _Cancelled("the command was stopped")
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._worker.log_event(self._topic, [self._name, status.done / status.total])


class Board:
    """How far all jobs are: a live line on a terminal, a plain line now and then in a log."""

    def __init__(self, jobs: int, console: Console):
        self._jobs, self._console, self._live = jobs, console, console.is_terminal
        self._shares: dict[str, float] = {}
        self._ended = self._failed = 0
        self._given = 0.0  # what was done in an earlier sitting, or will not be done: it says nothing of our pace
        self._began = self._printed_at = time.monotonic()
        self._printed = 0.0
        self._lock = threading.Lock()
        self._bars = Progress(
            BarColumn(bar_width=12), TextColumn("{task.fields[text]}"), console=console, disable=not self._live
        )
        self._bar = self._bars.add_task("", total=jobs, text="starting workers")

    def __enter__(self) -> "Board":
        self._bars.start()
        return self

    def __exit__(self, *_: object):
        self._bars.stop()

    def follow(self, name: str, share: float):
        """A job tells how much of it is done."""
        with self._lock:
            if not self._shares:
                self._began = time.monotonic()
            if name not in self._shares:
                self._given += share
            self._shares[name] = share
            self._show()

    def end(self, name: str, *, failed: bool):
        """A job is over."""
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
        if running:  # jobs that do not tell how far they are go unseen until they end
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
    # The client of a cluster of our own, which ends with it, or of the one at the address `scheduler`.
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
        "distributed.scheduler.allowed-failures": KILLS,
        # A worker holds no job but the one it works on, so that its death says little about others.
        "distributed.scheduler.worker-saturation": 1.0,
        # Dead workers are started again. Dask would also give up a place whose worker is dead 15 s after a death, even
        # if that is another death; and it would wait for ever should there be no place left.
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
    # Dask's usual one, or any if that is taken, of which dask would make a warning.
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
    return 8787


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    # New threads and processes inherit what is blocked: Ctrl-C, which goes to every process of a terminal, then stops
    # the client, and the client its workers. The resource tracker must be there before, as its start unblocks it.
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
    # New processes inherit it, also those that dask starts in place of dead ones.
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
