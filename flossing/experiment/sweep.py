"""A sweep: the runs of a specification on the workers of dask, each in a directory of its own.

    sweep.json         name, base, axes, and the runs with the values of their axes
    runs/<digest>/     the run directory of each configuration, named by its digest

Dask starts workers, hands out runs, notices a dead worker and gives its run to another, which goes on from the newest
checkpoint. Results are on the disk; what travels back is a line for a run that failed. What is finished is not run
again, so the same command completes, repairs and enlarges a sweep. JAX computes in the workers alone.
"""

import dataclasses
import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
from asyncio import CancelledError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from flossing.experiment.collection import write_sweep
from flossing.experiment.config import Config, read_config
from flossing.experiment.console import Status
from flossing.experiment.directory import RunDirectory
from flossing.experiment.files import remove_parts
from flossing.experiment.spec import Point, Spec, describe, one_line

if TYPE_CHECKING:
    import distributed

KILLS = 10
"""A run may lose so many workers; the next one that it loses is taken for its own fault."""

KINDS = 4
"""A worker keeps in memory what is compiled for so many kinds of runs, 150 MB each; runs of a kind differ in seeds."""

_kinds: set[str] = set()
_LOCK = ".lock"
_PATIENCE = 10.0  # seconds to wait for a directory that is in use
_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?[^\s/]+:\d{1,5}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How many runs were finished now, had been finished before, and failed."""

    finished: int
    reused: int
    failed: int


def sweep(
    spec: Spec, out: Path | str, *, workers: int | None = None, scheduler: str | None = None, console: Console
) -> Outcome:
    """Run what is not finished yet of `spec` in the directory `out`; progress and failures go to the console.

    On `workers` processes of this machine, each with one thread, by default one for each usable core; or on the dask
    cluster at the address `scheduler`, whose workers must see `out` under the same path. A script that calls this
    needs its `if __name__ == "__main__":`, since the processes import it.

    **Raises:** `ValueError` if the task cannot use a point, or `out` is in use or holds something else;
    `KeyboardInterrupt` after Ctrl-C, with all that was done kept.
    """
    if workers is not None and (workers < 1 or scheduler is not None):
        raise ValueError(f"workers must be at least 1, and left out with scheduler, got workers={workers}")
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise ValueError(f"scheduler must be an address such as tcp://127.0.0.1:8786, got scheduler={scheduler!r}")
    _require_dask()
    points = {point.config.digest: point for point in spec.points()}
    _check(spec.name, points.values(), here=scheduler is None)
    out = Path(out).absolute()
    failures: dict[str, str] = {}
    with _held(out):
        runs = [{"digest": digest, "values": point.values} for digest, point in points.items()]
        write_sweep(out, {"name": spec.name, "base": spec.base, "axes": spec.axes, "runs": runs})
        waiting = {digest: point.config for digest, point in points.items() if not _has_finished(out, point.config)}
        reused = len(points) - len(waiting)
        _say(console, f"sweep {spec.name}: {len(points)} runs, {reused} finished before\ndirectory   {out}")
        if waiting:
            with _connected(workers, scheduler, len(waiting)) as client, _Board(len(waiting), console) as board:
                _say(console, f"dashboard   {client.dashboard_link}")
                failures = _execute(client, waiting, out, board)
    if failures:
        console.print(_table(failures, points, out))
    return Outcome(len(waiting) - len(failures), reused, len(failures))


def _execute(client: "distributed.Client", waiting: Mapping[str, Config], out: Path, board: "_Board") -> dict[str, str]:
    # Runs all that is waiting; returns what stopped those that failed, in one line, by digest.
    from distributed import KilledWorker, as_completed

    topic = f"flossing-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: board.follow(*event[1]))
    failures: dict[str, str] = {}

    def end(digest: str, error: str | None):
        if error is not None:
            failures[digest] = error
        board.end(digest, failed=error is not None)

    def attempt(digests: list[str]) -> list[str]:
        # Returns the runs that lost too many workers. No future is kept once it is done: dask would run it anew if
        # the worker that holds its answer died.
        group, lost = f"flossing-{uuid.uuid4().hex[:8]}", []
        configs = [waiting[digest].model_dump() for digest in digests]
        places = [str(out / "runs" / digest) for digest in digests]
        keys = [(group, digest) for digest in digests]
        done = as_completed(client.map(_run_one, configs, places, topic=topic, key=keys, pure=False), loop=client.loop)
        for future in done:
            _, digest = future.key
            try:
                end(digest, future.result())
            except KilledWorker:
                lost.append(digest)
            except CancelledError:
                end(digest, "the scheduler is gone, or gave it up")
            except Exception as error:
                end(digest, one_line(f"{type(error).__name__}: {error}"))
        return lost

    # All runs that a worker held when it died are under suspicion. Alone, only the guilty one loses it again.
    for digest in attempt(list(waiting)):
        if attempt([digest]):
            end(digest, "every worker that took it up died")
    return failures


def _run_one(config: Mapping[str, Any], out: str, topic: str) -> str | None:
    # In a worker: one run to its end. What stopped it goes back as text, since not every exception travels well.
    import jax

    from flossing.experiment.process import cache_compilations
    from flossing.experiment.run import run

    cache_compilations()
    try:
        _kinds.add(read_config(config).with_values(seed=0).digest)
        if len(_kinds) > KINDS:
            jax.clear_caches()  # from the disk they are soon back
            _kinds.clear()
        run(read_config(config), out, on_progress=_Reporter(topic, Path(out).name))
    except (Exception, _Cancelled) as error:
        return one_line(f"{type(error).__name__}: {error}")
    return None


class _Cancelled(KeyboardInterrupt):
    """The sweep that wanted this run is gone; the run stops as after Ctrl-C."""


class _Reporter:
    """In a worker: tells the client how far a run is, at most once a second."""

    def __init__(self, topic: str, digest: str):
        from distributed import get_worker

        self._worker, self._topic, self._digest = get_worker(), topic, digest
        self._task = self._worker.state.tasks[self._worker.get_current_task()]
        self._told = -1.0

    def __call__(self, status: Status):
        # Dask does not stop a task that runs already, it only marks it.
        if self._task.state == "cancelled":
            raise _Cancelled("the sweep was stopped")
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._worker.log_event(self._topic, [self._digest, status.done / status.total])


class _Board:
    """How far a sweep is: a live line on a terminal, a plain line now and then in a log."""

    def __init__(self, runs: int, console: Console):
        self._runs, self._console, self._live = runs, console, console.is_terminal
        self._shares: dict[str, float] = {}
        self._ended = self._failed = 0
        self._given = 0.0  # what was done in an earlier sitting, or will not be done: it says nothing of our pace
        self._began = self._printed_at = time.monotonic()
        self._printed = 0.0
        self._lock = threading.Lock()
        self._bars = Progress(
            BarColumn(bar_width=12), TextColumn("{task.fields[text]}"), console=console, disable=not self._live
        )
        self._bar = self._bars.add_task("", total=runs, text="starting workers")

    def __enter__(self) -> "_Board":
        self._bars.start()
        return self

    def __exit__(self, *_: object):
        self._bars.stop()

    def follow(self, digest: str, share: float):
        """A run tells how much of its epochs is done."""
        with self._lock:
            if not self._shares:
                self._began = time.monotonic()
            if digest not in self._shares:
                self._given += share
            self._shares[digest] = share
            self._show()

    def end(self, digest: str, *, failed: bool):
        """A run is over."""
        with self._lock:
            if failed:
                self._given += 1.0 - self._shares.get(digest, 0.0)
            self._ended, self._failed = self._ended + 1, self._failed + failed
            self._shares[digest] = 1.0
            self._show()

    def _show(self):
        now, done = time.monotonic(), sum(self._shares.values())
        text = self._text(now, done)
        self._bars.update(self._bar, completed=done, text=text)
        due = done - self._printed >= 0.1 * self._runs or now - self._printed_at > 600 or self._ended == self._runs
        if due and not self._live:
            self._printed, self._printed_at = done, now
            _say(self._console, text)

    def _text(self, now: float, done: float) -> str:
        running = len(self._shares) - self._ended
        parts = [f"{self._ended - self._failed} of {self._runs} finished", f"{running} running"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        parts.append(f"{done / self._runs:.0%} of epochs")
        gained = done - self._given
        if gained > 0 and self._ended < self._runs:
            left = (self._runs - done) / gained * (now - self._began)
            parts.append(f"{timedelta(seconds=int(left))} left")
        return "  ".join(parts)


@contextmanager
def _connected(workers: int | None, scheduler: str | None, runs: int) -> Iterator["distributed.Client"]:
    # The client of a cluster of our own, which ends with it, or of the one at the address `scheduler`.
    import dask.config
    from distributed import Client, LocalCluster

    from flossing.experiment.process import ONE_THREAD, cores

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
        # A worker holds no run but the one it works on, so that its death says little about others.
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
                n_workers=min(workers or cores(), runs),
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


@contextmanager
def _held(out: Path) -> Iterator[None]:
    # Holds the directory of the sweep for one process; the lock ends with the process, however that ends.
    if out.is_dir() and not (out / "sweep.json").is_file():
        others = [path.name for path in out.iterdir() if path.name not in ("runs", _LOCK) and path.suffix != ".part"]
        if others:
            raise ValueError(f"out must be new, empty or of a sweep, got {str(out)!r}, which holds {min(others)!r}")
    lock = FileLock(out / _LOCK, timeout=_PATIENCE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(f"out must not be in use, got {str(out)!r}, where another sweep is at work") from None
    except OSError as error:
        raise ValueError(f"out must be a directory that can be written, got {str(out)!r}: {error.strerror}") from None
    try:
        remove_parts(out)
        yield
    finally:
        lock.release()


def _has_finished(out: Path, config: Config) -> bool:
    try:
        return RunDirectory(out / "runs" / config.digest).has_finished(config)
    except ValueError:
        return False  # a damaged directory, which the run itself will name


def _check(name: str, points: Iterable[Point], *, here: bool):
    # What a configuration alone does not know: whether a delay leaves a step to score, how much memory there is.
    from flossing.experiment.reference import check_memory, make_task

    for point in points:
        try:
            make_task(point.config)
            if here:
                check_memory(point.config)
        except ValueError as error:
            raise ValueError(f"{name}: at {describe(point.values)}: {error}") from None


def _require_dask():
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ValueError("flossing sweep needs the extra [runs]: pip install 'flossing[runs]'") from None


def _table(failures: Mapping[str, str], points: Mapping[str, Point], out: Path) -> Table:
    table = Table(title=f"{len(failures)} failed, in {out}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("run", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("directory", no_wrap=True)
    for digest, error in failures.items():
        table.add_row(describe(points[digest].values), error, f"runs/{digest}")
    return table


def _say(console: Console, text: str):
    console.print(text, highlight=False, markup=False, soft_wrap=True)
