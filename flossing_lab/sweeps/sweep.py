"""A sweep: the runs of a specification on dask workers, each in its own directory.

    sweep.json         name, base, axes, and the runs with the values of their axes
    runs/<digest>/     the run directory of each configuration, named by its digest

If a worker dies, another continues its run from the newest checkpoint. Finished runs are not repeated, so the same
command completes, repairs or extends a sweep. JAX computes only in the workers.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.locks import locked
from flossing_lab.runs.registry import read_config
from flossing_lab.sweeps.collection import write_sweep
from flossing_lab.sweeps.spec import Point, Spec, describe
from flossing_lab.sweeps.workers import Job, begin_job, check_workers, run_jobs, say


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The number of runs that finished now, had finished before, and failed."""

    finished: int
    reused: int
    failed: int


def sweep(
    spec: Spec, out: Path | str, *, workers: int | None = None, scheduler: str | None = None, console: Console
) -> Outcome:
    """Perform the unfinished runs of `spec` in the directory `out`; progress and failures go to the console.

    The runs use `workers` processes of this machine with one thread each, by default one per usable core, or the dask
    cluster at the address `scheduler`, whose workers must see `out` under the same path. A script that calls this
    needs an `if __name__ == "__main__":` guard, since the processes import it.

    **Raises:** `ValueError` if the task cannot use a point, or if `out` is in use or holds something else;
    `KeyboardInterrupt` after Ctrl-C, with all progress saved.
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
    """The job for a worker that runs `config` in the directory `out`."""
    return Job(_run, (config.model_dump(), str(out / "runs" / config.digest)))


def _run(config: Mapping[str, Any], place: str, on_progress: Any):
    # In a worker: complete one run.
    from flossing_lab.runs.run import run

    wanted = read_config(config)
    begin_job(wanted.with_values(seed=0).digest)
    run(wanted, place, on_progress=on_progress)


def has_finished(out: Path, config: RunConfig) -> bool:
    """Whether `runs` in the directory `out` holds a finished run of `config`."""
    try:
        return RunDirectory(out / "runs" / config.digest).has_finished(config)
    except ValueError:
        return False  # a damaged directory, which the run itself will report


def check_points(name: str, points: Iterable[Point], *, here: bool):
    """Raise ValueError for errors that a configuration alone cannot detect: a delay that leaves no step to score, or,
    if the runs are `here` on this machine, too little memory."""
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
