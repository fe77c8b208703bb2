"""One run of a trial: draw a network, train it, test it; and the cost of an epoch."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax

import flossing as fl
from flossing_lab.comparison import opponents
from flossing_lab.comparison.protocol import OF_TRAINING, Trial, TrialRun, digest
from flossing_lab.comparison.training import Penalised, Settings, train_network
from flossing_lab.runs.catalogue import CELLS
from flossing_lab.runs.console import Status
from flossing_lab.runs.named import check_fit, make_network, make_task
from flossing_lab.runs.source import load

ALL_CELLS = CELLS | opponents.CELLS


def make(trial: Trial, run: TrialRun, on_progress: Any = lambda status: None) -> dict[str, Any]:
    """Train and test one network; return what to store."""
    task, kind, arm = trial.tasks[run.task], trial.networks[run.network], trial.arms[run.arm]
    drawn, size = trial.drawn_by(run), trial.settings
    options = _of_cell(drawn)
    settings = Settings(
        units=size.units,
        batch=size.batch,
        epochs=trial.epochs(run.task, run.network, run.arm),
        learning_rate=drawn.get("rate", 1e-3),
        clip=drawn.get("clip", 0.1),
        stop=task.stop,
        test=size.test,
        budget=trial.budget(run.task, run.network, run.arm),
    )
    problem, k = make_task(task.task, task.options, trial.folder), round(size.share * size.units)
    cell = partial(load(kind.cell, trial.folder, kind="cell", known=ALL_CELLS), **kind.options)
    if kind.horizon is not None:
        cell = partial(_calibrated, cell, problem, kind.horizon, k)
    trained = None
    if kind.penalty is not None:
        trained = Penalised(problem, opponents.PENALTIES[kind.penalty], drawn["weight"])
    elif arm.orthogonality is not None:
        trained = Penalised(problem, opponents.soft_orthogonality, arm.orthogonality)

    def report(state):
        on_progress(Status(state.epoch, settings.epochs, state.flossing_epoch, arm.before))

    found = train_network(
        problem,
        partial(cell, **options),
        k,
        arm,
        settings,
        run.seed or 1000 + run.draw,
        report,
        trained,
    )
    return {**run._asdict(), "drawn": drawn, **found, "digest": digest(trial, run)}


def measure_seconds(trial: Trial) -> dict[str, dict[str, list[float]]]:
    """Seconds of an epoch of training and of flossing, by task and network, on this process; for a protocol.

    The shortest of several chunks, of the first draw; 0 for the flossing of a network that is never flossed.
    """
    if trial.is_fixed:
        raise ValueError("seconds must be measured for networks with draws, got fixed ones, whose cost is not compared")
    found: dict[str, dict[str, list[float]]] = {task: {} for task in trial.tasks}
    for task, (network, kind) in itertools.product(trial.tasks, trial.networks.items()):
        arm = max(kind.arms or trial.arms, key=lambda arm: trial.arms[arm].flosses)
        before = 200 if trial.arms[arm].flosses else 0
        tasks = {task: trial.tasks[task].model_copy(update={"epochs": 300, "stop": None, "seconds": None})}
        arms = {arm: trial.arms[arm].model_copy(update={"before": before, "term": None, "threshold": None})}
        short = trial.model_copy(update={"tasks": tasks, "arms": arms, "seconds": {task: {network: (1.0, 0.0)}}})
        times: dict[str, list[tuple[int, float]]] = {"training": [], "flossing": []}

        def note(status: Status, times: dict[str, list[tuple[int, float]]] = times):
            kind, done = ("training", status.epoch) if status.epoch else ("flossing", status.flossing_epoch)
            times[kind].append((done, time.process_time()))

        make(short, TrialRun(task, network, 1, arm), note)
        found[task][network] = [_pace(times["training"]), _pace(times["flossing"]) if before else 0.0]
    return found


def _pace(times: list[tuple[int, float]]) -> float:
    """Seconds per epoch, the shortest of several chunks."""
    paces = [(t - s) / (j - i) for (i, s), (j, t) in itertools.pairwise(times)]
    return float(f"{min(paces, default=float('nan')):.2g}")


def check(trial: Trial, *, with_seconds: bool = True):
    """Raise ValueError for a task or a cell that cannot be found or loaded, or does not fit; or for missing seconds."""
    tasks = {}
    for name, task in trial.tasks.items():
        with _of(f"tasks.{name}"):
            tasks[name] = make_task(task.task, task.options, trial.folder, argument=f"options of {name}")
    for name, kind in trial.networks.items():
        for task in trial.tasks if with_seconds and not trial.is_fixed else []:
            if name not in trial.seconds.get(task, {}):
                raise ValueError(
                    f"seconds.{task} must hold two numbers for {name}, got none: measure them with --seconds, and "
                    "append what it prints to the protocol"
                )
        for task, made in tasks.items():
            with _of(f"networks.{name}"):
                network = _first_draw(trial, name, made)
                check_fit(made, network, trial.tasks[task].task, kind.cell)
            is_kept = any(trial.arms[arm].orthogonality for arm in kind.arms or trial.arms)
            if (is_kept or kind.penalty == "orthogonality") and not hasattr(network.cell, "J"):
                raise ValueError(f"orthogonality needs a cell with recurrent weights J, got {name} with {kind.cell}")


@contextlib.contextmanager
def _of(where: str) -> Iterator[None]:
    """Errors within name the table of the protocol."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _first_draw(trial: Trial, name: str, task: Any) -> fl.cells.Network:
    """A network of the trial with its first settings; of the library's cells only the shapes."""
    kind = trial.networks[name]

    def draw(key: Any) -> fl.cells.Network:
        options = kind.options | _of_cell((trial.drawn(name) or [{}])[0])
        named = {"known": ALL_CELLS, "argument": f"options of {name}"}
        return make_network(kind.cell, options, trial.folder, units=trial.settings.units, task=task, key=key, **named)

    key = jax.random.key(0)
    # A cell of a user need not be drawn by what JAX can trace.
    return eqx.filter_eval_shape(draw, key) if kind.cell in ALL_CELLS else draw(key)


def _calibrated(cell: Any, task: Any, horizon: int, k: int, units: int, inputs: int, *, key: Any, **options: Any):
    """The cell with the gain and the input scale of `calibrate`, along a sequence of the task."""

    def make(gain: float, scale: float) -> Any:
        return cell(units, inputs, key=key, gain=gain, input_scale=scale, **options)

    sequence = task(jax.random.fold_in(key, 1)).inputs
    found = fl.calibrate(make, sequence, horizon=horizon, k=k)
    return make(found.gain, found.input_scale)


def _of_cell(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in drawn.items() if name not in OF_TRAINING}
