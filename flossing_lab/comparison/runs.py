"""Perform the missing runs of a trial on dask workers, and collect them in one file.

runs/*.json       a run each
results.json      all runs, a line each, without those of another trial; also what a trial continues from elsewhere
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flossing_lab.comparison.paired import is_solved
from flossing_lab.comparison.protocol import Trial, TrialRun, digest
from flossing_lab.runs.files import plain, read_json, write_atomically, write_json
from flossing_lab.runs.locks import locked
from flossing_lab.sweeps.workers import Job, check_workers, run_jobs, say

FORMAT = 1


def carry_out(
    trial: Trial, out: Path, *, workers: int | None, scheduler: str | None, console: Console
) -> dict[str, str]:
    """Perform the missing runs, first of all draws, then of the best, then of those on longer tasks.

    Returns the messages of failed runs by name.
    """
    check_workers("compare", workers, scheduler)
    dump, place, failures = trial.model_dump(mode="json"), str(out.absolute()), {}
    with locked(out.absolute(), "trial", "results.json", ["runs"]):
        (out / "runs").mkdir(exist_ok=True)
        restore(trial, out)
        phases = ["all seeds"] if trial.is_fixed else ["all draws", "the best draws again"]
        phases += ["longer tasks"] if len(trial.drawn_tasks) < len(trial.tasks) else []
        for name in phases:
            wanted = trial.runs() if name == phases[0] else best_runs(trial, collect(trial, out))
            missing = [run for run in wanted if not is_done(trial, out, run) and run.name not in failures]
            say(console, f"{trial.title}, {name}: {len(wanted)} runs, {len(wanted) - len(missing)} done before")
            jobs = {run.name: Job(perform, (dump, place, tuple(run))) for run in missing}
            try:
                if jobs:
                    failures |= run_jobs(jobs, workers=workers, scheduler=scheduler, console=console)
            finally:
                collect(trial, out)
    return failures


def collect_existing(trial: Trial, out: Path):
    """Collect the runs that exist; ValueError if there are none."""
    if not (out / "runs").is_dir() and not read_runs(trial, out):
        raise ValueError(f"out must hold runs, got {str(out)!r}")
    with locked(out.absolute(), "trial", "results.json", ["runs"]):
        (out / "runs").mkdir(exist_ok=True)
        restore(trial, out)
        collect(trial, out)


def perform(dump: dict[str, Any], place: str, fields: tuple, on_progress: Any):
    """In a worker: make one run, and write its file."""
    from flossing_lab.comparison.making import make
    from flossing_lab.sweeps.workers import begin_job

    trial, run = Trial.model_validate(dump, strict=False), TrialRun(*fields)
    begin_job(f"{run.task}-{run.network}-{run.arm}")
    found = make(trial, run, on_progress)
    write_json(run_file(Path(place), run), {"format": FORMAT, **found})


def is_done(trial: Trial, out: Path, run: TrialRun) -> bool:
    """Whether the file of a run holds one with the settings of the trial."""
    return _stored(trial, out, run) is not None


def _stored(trial: Trial, out: Path, run: TrialRun) -> dict[str, Any] | None:
    try:
        found = read_json(run_file(out, run), FORMAT)
        return found if found["digest"] == digest(trial, run) else None
    except (OSError, ValueError, KeyError):
        return None


def collect(trial: Trial, out: Path) -> list[dict[str, Any]]:
    """Write results.json, from the files of all runs that have the settings of the trial; return these runs.

    Runs that are in the results of another trial, `runs_of`, are not written again.
    """
    from flossing_lab.runs.provenance import measured_on

    runs = draws = _read(trial, out, trial.runs())
    for _ in range(2):  # what runs on longer tasks depends on the best draws again
        runs = draws + _read(trial, out, best_runs(trial, runs))
    known = {_identity(run) for run in _of_another(trial)}
    own = [run for run in runs if _identity(run) not in known]
    file = out / "results.json"
    before: dict[str, Any] = read_json(file, FORMAT) if file.exists() else {"runs": None}
    if plain(own) == before.pop("runs"):
        return runs  # nothing new: keep when and where it was measured
    made = measured_on(("flossing", "jax", "jaxlib", "numpy", "optax", "equinox"), cores=1)
    processors = [*before.get("processor", made["processor"]).split(" or "), made["processor"]]
    made["processor"] = " or ".join(dict.fromkeys(processors))  # runs may come from several machines
    head = json.dumps({"format": FORMAT, "title": trial.title, **made}, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(plain(run), ensure_ascii=False, allow_nan=False) for run in own)
    write_atomically(file, f'{head[:-2]},\n "runs": [\n{lines}\n ]\n}}\n'.encode())
    return runs


def _read(trial: Trial, out: Path, wanted: Sequence[TrialRun]) -> list[dict[str, Any]]:
    return [found for run in wanted if (found := _stored(trial, out, run)) is not None]


def restore(trial: Trial, out: Path):
    """Write the files of runs that results.json holds and runs/ lacks; ValueError if they are of another protocol."""
    for found in read_results(out):
        if not _belongs(trial, found):
            raise ValueError(
                f"out must hold no runs of another protocol, got {str(out)!r} with {_run(found).name}, whose settings "
                "this one does not have: choose another --out"
            )
    for found in read_runs(trial, out):
        if not is_done(trial, out, run := _run(found)):
            write_json(run_file(out, run), found)


def read_runs(trial: Trial, out: Path) -> list[dict[str, Any]]:
    """The runs in results.json, and those of another trial that serve here, too."""
    return _of_another(trial) + read_results(out)


def _of_another(trial: Trial) -> list[dict[str, Any]]:
    """The runs of `runs_of` that are runs of this trial; ValueError for a directory without results."""
    known: dict[tuple, dict[str, Any]] = {}
    for name in _others(trial):
        folder = Path(trial.folder) / name
        if not (folder / "results.json").exists():
            raise ValueError(f"runs_of must name directories with results.json beside the protocol, got {name!r}")
        known |= {_identity(found): found for found in read_results(folder) if _belongs(trial, found)}
    return [*known.values()]


def _others(trial: Trial) -> tuple[str, ...]:
    return (trial.runs_of,) if isinstance(trial.runs_of, str) else trial.runs_of


def _run(found: dict[str, Any]) -> TrialRun:
    return TrialRun(*(found[name] for name in TrialRun._fields))


def _identity(found: dict[str, Any]) -> tuple:
    return *_run(found), found["digest"]


def _belongs(trial: Trial, found: dict[str, Any]) -> bool:
    """Whether a run is one of this trial, with its settings."""
    run = _run(found)
    is_known = run.task in trial.tasks and run.network in trial.networks and run.arm in trial.arms
    return is_known and run.draw <= trial.networks[run.network].draws and found["digest"] == digest(trial, run)


def best_runs(trial: Trial, results: Sequence[dict[str, Any]]) -> list[TrialRun]:
    """The runs of the best draw of each arm again, for the cells of the table whose draws have all been made.

    The best draw reached the accuracy at which training stops in the fewest epochs, or else has the lowest loss, both
    in training. With a penalty in the loss, the accuracy takes its place. A task without draws
    takes the best of the task that it names, of those that solve that task with at least one other seed.
    """
    found = []
    for task, network, arm in itertools.product(trial.tasks, trial.networks, trial.arms):
        drawn = trial.tasks[task].settings_of or task
        if drawn != task and not solves_again(trial, results, drawn, network, arm):
            continue
        cell = [r for r in results if (r["task"], r["network"], r["arm"], r["seed"]) == (drawn, network, arm, 0)]
        if cell and len(cell) == trial.networks[network].draws:
            best = min(cell, key=lambda r: _rank(trial, r))
            seeds = range(1, trial.settings.again + 1)
            found += [TrialRun(task, network, best["draw"], arm, seed) for seed in seeds]
    return found


def solves_again(trial: Trial, results: Sequence[dict[str, Any]], task: str, network: str, arm: str) -> bool:
    """Whether the best draw of an arm has run again with all seeds, and solves the task with at least one."""
    again = [r for r in results if r["seed"] and (r["task"], r["network"], r["arm"]) == (task, network, arm)]
    return len(again) >= trial.settings.again and any(is_solved(trial, run) for run in again)


def _rank(trial: Trial, result: dict[str, Any]) -> tuple[bool, float]:
    stop, accuracies = trial.tasks[result["task"]].stop, result["accuracies"]
    if result["failure"] or not accuracies:
        return True, float("inf")
    if stop is not None and accuracies[-1] > stop:
        return False, result["epochs"]
    if trial.networks[result["network"]].penalty is not None or trial.arms[result["arm"]].orthogonality:
        return True, -sum(accuracies[-2:]) / len(accuracies[-2:])
    return True, sum(result["curve"][-2:]) / len(result["curve"][-2:])


def describe_results(trial: Trial, out: Path) -> str:
    """How many runs there are, when the last was made, and on what."""
    found = read_json(out / "results.json", FORMAT)
    processor, jax = found["processor"], found["versions"]["jax"]
    others = f", and {count} of {' and '.join(_others(trial))}" if (count := len(_of_another(trial))) else ""
    return f"{len(found['runs'])} runs{others}, {found['measured'][:10]}, a core of {processor} each, JAX {jax}."


def read_results(out: Path) -> list[dict[str, Any]]:
    """The runs in results.json; none if there is no such file."""
    file = out / "results.json"
    return read_json(file, FORMAT)["runs"] if file.exists() else []


def run_file(out: Path, run: TrialRun) -> Path:
    """The file of a run."""
    return out / "runs" / f"{run.name}.json"
