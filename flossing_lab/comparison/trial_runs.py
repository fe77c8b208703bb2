"""Perform the missing runs of a trial on dask workers, and collect them in one file.

runs/*.json       a run each
results.json      all runs, a line each; also what a trial continues from on another machine
"""

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from flossing_lab.comparison.trial import OF_TRAINING, Trial, TrialRun
from flossing_lab.runs.console import Status
from flossing_lab.runs.files import plain, read_json, write_atomically, write_json
from flossing_lab.sweeps.sweep import locked
from flossing_lab.sweeps.workers import Job, check_workers, run_jobs, say

FORMAT = 1


def carry_out(
    trial: Trial, out: Path, *, workers: int | None, scheduler: str | None, console: Console
) -> dict[str, str]:
    """Perform the missing runs, first of all draws, then of the best; return the messages of failed ones by name."""
    check_workers("compare", workers, scheduler)
    check(trial)
    dump, place, failures = trial.model_dump(mode="json"), str(out.absolute()), {}
    with locked(out.absolute(), "trial", "results.json", ["runs"]):
        (out / "runs").mkdir(exist_ok=True)
        restore(trial, out)
        for name in ("all draws", "the best draws again"):
            wanted = trial.runs() if name == "all draws" else best_runs(trial, collect(trial, out))
            missing = [run for run in wanted if not is_done(trial, out, run)]
            say(console, f"{trial.title}, {name}: {len(wanted)} runs, {len(wanted) - len(missing)} done before")
            jobs = {run.name: Job(perform, (dump, place, tuple(run))) for run in missing}
            try:
                if jobs:
                    failures |= run_jobs(jobs, workers=workers, scheduler=scheduler, console=console)
            finally:
                collect(trial, out)
    return failures


def check(trial: Trial):
    """Raise ValueError for a task or a cell that does not exist, or does not take its arguments."""
    import jax

    from flossing_lab.runs.catalogue import TASKS

    for name, task in trial.tasks.items():
        _named("task", task.task, TASKS)
        _made(f"options of {name}", TASKS[task.task], **task.options)
    for name, kind in trial.networks.items():
        _named("cell", kind.cell, _cells())
        options = kind.options | _of_cell(trial.drawn(name)[0])
        _made(f"options of {name}", jax.eval_shape, partial(_draw_cell, kind.cell, options, trial.settings.units))


def _named(what: str, name: str, known: Any):
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {what}={name!r}")


def _made(what: str, make: Any, *arguments: Any, **options: Any):
    try:
        make(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be legal arguments, got: {str(error).splitlines()[0]}") from error


def _draw_cell(cell: str, options: dict[str, Any], units: int) -> None:
    import jax

    _cells()[cell](units, 1, key=jax.random.key(0), **options)


def _cells() -> dict[str, Any]:
    from flossing_lab.comparison import opponents
    from flossing_lab.runs.catalogue import CELLS

    return CELLS | opponents.CELLS


def _calibrated(cell: Any, task: Any, horizon: int, k: int, units: int, inputs: int, *, key: Any, **options: Any):
    """The cell with the gain and the input scale of `calibrate`, along a sequence of the task."""
    import jax

    import flossing as fl

    def make(gain: float, scale: float) -> Any:
        return cell(units, inputs, key=key, gain=gain, input_scale=scale, **options)

    sequence = task(jax.random.fold_in(key, 1)).inputs
    found = fl.calibrate(make, sequence, horizon=horizon, k=k)
    return make(found.gain, found.input_scale)


def _of_cell(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in drawn.items() if name not in OF_TRAINING}


def collect_existing(trial: Trial, out: Path):
    """Collect the runs that exist; ValueError if there are none."""
    if not (out / "runs").is_dir() and not read_results(out):
        raise ValueError(f"out must hold runs, got {str(out)!r}")
    (out / "runs").mkdir(exist_ok=True)
    restore(trial, out)
    collect(trial, out)


def perform(dump: dict[str, Any], place: str, fields: tuple, on_progress: Any):
    """In a worker: make one run, and write its file."""
    from flossing_lab.sweeps.workers import evict_compilations

    trial, run = Trial.model_validate(dump, strict=False), TrialRun(*fields)
    evict_compilations(f"{run.task}-{run.network}-{run.arm}")
    write_json(run_file(Path(place), run), make(trial, run, on_progress))


def make(trial: Trial, run: TrialRun, on_progress: Any = lambda status: None) -> dict[str, Any]:
    """Train and test one network; return what to store."""
    from flossing import losses
    from flossing_lab.comparison.opponents import PENALTIES
    from flossing_lab.comparison.protocol import Arm, Settings
    from flossing_lab.comparison.runs import Penalised, train_network
    from flossing_lab.runs.catalogue import TASKS

    task, kind, arm = trial.tasks[run.task], trial.networks[run.network], trial.arms[run.arm]
    drawn, size = trial.drawn(run.network)[run.draw - 1], trial.settings
    options = _of_cell(drawn)
    settings = Settings(
        units=size.units,
        batch=size.batch,
        epochs=trial.epochs(run.task, run.network, run.arm),
        learning_rate=drawn.get("rate", 1e-3),
        clip=drawn.get("clip", 0.1),
        clip_together=True,
        stop=task.stop,
        test=size.test,
    )
    loss = losses.KeepAndWrite() if arm.loss == "default" else losses.exponents
    problem, k = TASKS[task.task](**task.options), round(size.share * size.units)
    cell = partial(_cells()[kind.cell], **kind.options)
    if kind.horizon is not None:
        cell = partial(_calibrated, cell, problem, kind.horizon, k)
    trained = None if kind.penalty is None else Penalised(problem, PENALTIES[kind.penalty], drawn["weight"])

    def report(state):
        on_progress(Status(state.epoch, settings.epochs, state.flossing_epoch, arm.before))

    found = train_network(
        problem,
        partial(cell, **options),
        k,
        Arm(arm.before, loss, arm.rate, arm.clip),
        settings,
        run.seed or 1000 + run.draw,
        report,
        trained,
    )
    return {"format": FORMAT, **run._asdict(), "drawn": drawn, **found, "digest": digest(trial, run)}


def measure_seconds(trial: Trial) -> dict[str, dict[str, list[float]]]:
    """Seconds of an epoch of training and of flossing, by task and network, on this process; for a protocol.

    The shortest of several chunks, of the first draw.
    """
    found: dict[str, dict[str, list[float]]] = {task: {} for task in trial.tasks}
    flossing = max(trial.arms, key=lambda arm: trial.arms[arm].before)
    for task, network in itertools.product(trial.tasks, trial.networks):
        tasks = {task: trial.tasks[task].model_copy(update={"epochs": 300, "stop": None})}
        arms = {flossing: trial.arms[flossing].model_copy(update={"before": 200})}
        short = trial.model_copy(update={"tasks": tasks, "arms": arms})
        times: dict[str, list[tuple[int, float]]] = {"training": [], "flossing": []}

        def note(status: Status, times: dict[str, list[tuple[int, float]]] = times):
            kind, done = ("training", status.epoch) if status.epoch else ("flossing", status.flossing_epoch)
            times[kind].append((done, time.process_time()))

        make(short, TrialRun(task, network, 1, flossing), note)
        found[task][network] = [
            float(f"{min((t - s) / (j - i) for (i, s), (j, t) in itertools.pairwise(of)):.2g}") for of in times.values()
        ]
    return found


def is_done(trial: Trial, out: Path, run: TrialRun) -> bool:
    """Whether the file of a run holds one with the settings of the trial."""
    try:
        return read_json(run_file(out, run), FORMAT)["digest"] == digest(trial, run)
    except (OSError, ValueError, KeyError):
        return False


def collect(trial: Trial, out: Path) -> list[dict[str, Any]]:
    """Write results.json, from the files of all runs that have the settings of the trial; return these runs."""
    from flossing_lab.runs.provenance import measured_on

    runs = [read_json(run_file(out, run), FORMAT) for run in trial.runs() if is_done(trial, out, run)]
    runs += [read_json(run_file(out, run), FORMAT) for run in best_runs(trial, runs) if is_done(trial, out, run)]
    made = measured_on(("flossing", "jax", "jaxlib", "numpy", "optax", "equinox"), cores=1)
    head = json.dumps({"format": FORMAT, "title": trial.title, **made}, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(plain(run), ensure_ascii=False, allow_nan=False) for run in runs)
    write_atomically(out / "results.json", f'{head[:-2]},\n "runs": [\n{lines}\n ]\n}}\n'.encode())
    return runs


def restore(trial: Trial, out: Path):
    """Write the files of runs that results.json holds and runs/ lacks; ValueError if they are of another protocol."""
    for found in read_results(out):
        run = TrialRun(*(found[name] for name in TrialRun._fields))
        is_known = run.task in trial.tasks and run.network in trial.networks and run.arm in trial.arms
        if not is_known or run.draw > trial.networks[run.network].draws or found["digest"] != digest(trial, run):
            raise ValueError(
                f"out must hold no runs of another protocol, got {str(out)!r} with {run.name}, whose settings this one "
                "does not have: choose another --out"
            )
        if not is_done(trial, out, run):
            write_json(run_file(out, run), found)


def best_runs(trial: Trial, results: Sequence[dict[str, Any]]) -> list[TrialRun]:
    """The runs of the best draw of each arm again, for the cells of the table whose draws have all been made.

    The best draw reached the accuracy at which training stops in the fewest epochs, or else has the lowest loss, both
    in training.
    """
    found = []
    for task, network, arm in itertools.product(trial.tasks, trial.networks, trial.arms):
        cell = [r for r in results if (r["task"], r["network"], r["arm"], r["seed"]) == (task, network, arm, 0)]
        if len(cell) == trial.networks[network].draws:
            best = min(cell, key=lambda r: _rank(trial, r))
            seeds = range(1, trial.settings.again + 1)
            found += [TrialRun(task, network, best["draw"], arm, seed) for seed in seeds]
    return found


def _rank(trial: Trial, result: dict[str, Any]) -> tuple[bool, float]:
    stop, accuracies = trial.tasks[result["task"]].stop, result["accuracies"]
    if result["failure"] or not accuracies:
        return True, float("inf")
    if stop is not None and accuracies[-1] > stop:
        return False, result["epochs"]
    return True, sum(result["curve"][-2:]) / len(result["curve"][-2:])


def read_results(out: Path) -> list[dict[str, Any]]:
    """The runs in results.json; none if there is no such file."""
    file = out / "results.json"
    return read_json(file, FORMAT)["runs"] if file.exists() else []


def run_file(out: Path, run: TrialRun) -> Path:
    """The file of a run."""
    return out / "runs" / f"{run.name}.json"


def digest(trial: Trial, run: TrialRun) -> str:
    """12 hexadecimal digits that identify the settings of a run."""
    return hashlib.sha256(json.dumps(trial.recorded(run), sort_keys=True).encode()).hexdigest()[:12]
