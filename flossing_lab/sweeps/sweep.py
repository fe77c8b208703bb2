"""A sweep: the runs of a specification on the workers of dask, each in a directory of its own.

    sweep.json         name, base, axes, and the runs with the values of their axes
    runs/<digest>/     the run directory of each configuration, named by its digest

A worker that dies leaves its run to another, which goes on from the newest checkpoint. What is finished is not run
again, so the same command completes, repairs and enlarges a sweep. JAX computes in the workers alone.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from flossing_lab.sweeps.collection import write_sweep
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.registry import read_config
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import remove_parts
from flossing_lab.sweeps.spec import Point, Spec, describe
from flossing_lab.sweeps.workers import Job, run_jobs, check_workers, evict_compilations, say

LOCK = ".lock"
_PATIENCE = 10.0  # seconds to wait for a directory that is in use


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
    check_workers("sweep", workers, scheduler)
    points = {point.config.digest: point for point in spec.points()}
    check_points(spec.name, points.values(), here=scheduler is None)
    out = Path(out).absolute()
    failures: dict[str, str] = {}
    with locked(out, "sweep", "sweep.json", ["runs"]):
        runs = [{"digest": digest, "values": point.values} for digest, point in points.items()]
        write_sweep(out, {"name": spec.name, "base": spec.base, "axes": spec.axes, "runs": runs})
        waiting = {digest: point.config for digest, point in points.items() if not has_finished(out, point.config)}
        reused = len(points) - len(waiting)
        say(console, f"sweep {spec.name}: {len(points)} runs, {reused} finished before\ndirectory   {out}")
        if waiting:
            jobs = {digest: run_job(out, config) for digest, config in waiting.items()}
            failures = run_jobs(jobs, workers=workers, scheduler=scheduler, console=console)
    if failures:
        console.print(_table(failures, points, out))
    return Outcome(len(waiting) - len(failures), reused, len(failures))


def run_job(out: Path, config: RunConfig) -> Job:
    """The run of `config` in the directory `out`, a job for a worker."""
    return Job(_run, (config.model_dump(), str(out / "runs" / config.digest)))


def _run(config: Mapping[str, Any], place: str, on_progress: Any):
    # In a worker: one run to its end.
    from flossing_lab.runs.run import run

    wanted = read_config(config)
    evict_compilations(wanted.with_values(seed=0).digest)
    run(wanted, place, on_progress=on_progress)


@contextmanager
def locked(out: Path, what: str, mark: str, ours: Collection[str]) -> Iterator[None]:
    """Hold the directory of `what` for one process; the lock ends with the process, however that ends.

    It must be new, empty, hold the file or folder `mark`, or nothing but those in `ours`; else ValueError, as also if
    it is in use or cannot be written.
    """
    if out.is_dir() and not (out / mark).exists():
        others = [path.name for path in out.iterdir() if path.name not in (*ours, LOCK) and path.suffix != ".part"]
        if others:
            raise ValueError(f"out must be new, empty or of a {what}, got {str(out)!r}, which holds {min(others)!r}")
    lock = FileLock(out / LOCK, timeout=_PATIENCE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(f"out must not be in use, got {str(out)!r}, where another {what} is at work") from None
    except OSError as error:
        raise ValueError(f"out must be a directory that can be written, got {str(out)!r}: {error.strerror}") from None
    try:
        remove_parts(out)
        yield
    finally:
        lock.release()


def has_finished(out: Path, config: RunConfig) -> bool:
    """Whether `runs` in the directory `out` holds a finished run of `config`."""
    try:
        return RunDirectory(out / "runs" / config.digest).has_finished(config)
    except ValueError:
        return False  # a damaged directory, which the run itself will name


def check_points(name: str, points: Iterable[Point], *, here: bool):
    """Raise ValueError for what a configuration alone does not know: a delay that leaves no step to score, or, if the
    runs are to be made `here`, too little memory."""
    from flossing_lab.runs.experiment import experiment_module

    for point in points:
        try:
            experiment_module(point.config).check(point.config, here=here)
        except ValueError as error:
            raise ValueError(f"{name}: at {describe(point.values)}: {error}") from None


def _table(failures: Mapping[str, str], points: Mapping[str, Point], out: Path) -> Table:
    table = Table(title=f"{len(failures)} failed, in {out}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("run", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("directory", no_wrap=True)
    for digest, error in failures.items():
        table.add_row(describe(points[digest].values), error, f"runs/{digest}")
    return table
