"""Train and test one network of a trial."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax

import flossing as fl
from flossing._training.train import measure_exponents
from flossing_lab.comparison.forecast import evaluate
from flossing_lab.comparison.sections import TrialArm
from flossing_lab.runs.reach import Reach, blocks_below
from flossing_lab.runs.trials import Batch, Inputs, Loss

CHUNK = 50
"""Epochs per chunk. A curve has one point per chunk."""

LOSSES: dict[str, fl.losses.Loss] = {
    "default": fl.losses.KeepAndWrite(),
    "exponents": fl.losses.exponents,
    "memory": fl.losses.Memory(),
}
"""The losses of flossing by the names of the protocol."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes, epochs and learning rate of training. With `stop`, it ends once a chunk has a mean accuracy above that.
    With `budget`, seconds of an epoch of training, of flossing, and of both together, it ends with the chunk that
    reaches the last; these seconds are not measured, so that a run can be repeated."""

    units: int = 64
    batch: int = 32
    epochs: int = 5000
    learning_rate: float = 1e-3
    clip: float = 0.1
    stop: float | None = None
    test: int = 512
    budget: tuple[float, float, float] | None = None

    def is_spent(self, state: fl.TrainingState) -> bool:
        """Whether the budget is spent."""
        if self.budget is None:
            return False
        training, flossing, limit = self.budget
        return state.epoch * training + state.flossing_epoch * flossing >= limit


@dataclasses.dataclass(frozen=True)
class Penalised:
    """The loss of a task with `weight` times a penalty. The metrics are those of the task, with its own loss."""

    task: Any
    penalty: Callable[..., Any]
    weight: float

    def __call__(self, network, batch):
        loss, metrics = Loss(self.task)(network, batch)
        return loss + self.weight * self.penalty(network, batch, self.task), {**metrics, "task_loss": loss}


def schedule_of(arm: TrialArm) -> fl.schedules.Schedule | None:
    """When an arm flosses; None without flossing."""
    if arm.threshold is not None:
        return fl.schedules.rule(blocks_below(arm.threshold, arm.block), every=arm.every, preflossing=arm.before)
    return fl.schedules.preflossing(arm.before) if arm.before else None


def test_data(task: Any, settings: Settings) -> fl.tasks.Trial:
    """The test set of the task if it has one, else sequences that training never draws; the same for all seeds."""
    return task.test() if hasattr(task, "test") else Batch(task, settings.test)(jax.random.key(0))


def train_network(
    task: Any,
    make: Callable[..., Any],
    k: int,
    arm: TrialArm,
    settings: Settings,
    seed: int,
    on_chunk: Callable[[fl.TrainingState], None] = lambda state: None,
    trained: Any = None,
) -> dict[str, Any]:
    """Train and test one network: its losses, accuracies, exponents, epochs and seconds.

    A seed gives the same network, the same batches and the same sequences for flossing in all arms. `trained` is the
    loss of training, by default that of the task, by which the network is tested.
    """
    cell_key, readout_key, data_key, basis_key = jax.random.split(jax.random.key(seed), 4)
    network = fl.cells.Network(make(settings.units, task.channels, key=cell_key), task.outputs, key=readout_key)
    flossing = fl.Flossing(
        network,
        Inputs(task),
        state=network.zeros(),
        key=basis_key,
        k=k,
        loss=LOSSES[arm.loss],
        optimiser=optax.adam(arm.rate),
        clip=arm.clip,
    )
    loss = Loss(task)
    adam = optax.chain(optax.clip_by_global_norm(settings.clip), optax.adam(settings.learning_rate))
    state = fl.init_training(network, adam, flossing)
    ends = {"start": _ends(flossing, network)}
    curve, accuracies, seconds, failure = [], [], {"training": 0.0, "flossing": 0.0}, None
    since = time.process_time()
    try:
        for progress in fl.train(
            state,
            loss=loss if trained is None else trained,
            batch=Batch(task, settings.batch),
            optimiser=adam,
            key=data_key,
            epochs=settings.epochs,
            flossing=flossing,
            schedule=schedule_of(arm),
            term=None if arm.term is None else fl.FlossingTerm(arm.term, arm.term_every, LOSSES[arm.term_loss]),
            probe=None if arm.threshold is None else Reach(task, seed, flossing.window),
            probe_every=0 if arm.threshold is None else arm.every,
            chunk=CHUNK,
        ):
            seconds[progress.kind] += time.process_time() - since
            state = progress.state
            on_chunk(state)
            if progress.kind == "training":
                curve.append(_round(progress.metrics.get("task_loss", progress.metrics["loss"]).mean()))
                accuracies.append(_round(progress.metrics["accuracy"].mean()))
                if settings.stop is not None and accuracies[-1] > settings.stop:
                    break
            elif state.epoch == 0 and state.pending == 0:
                ends["flossed"] = _ends(flossing, state.model)
            if settings.is_spent(state):
                break
            since = time.process_time()
    except FloatingPointError as error:
        failure = str(error)
    ends["end"] = _ends(flossing, state.model)
    tested, others = eqx.filter_jit(loss)(state.model, test_data(task, settings))
    ended = {"loss": float(tested), "accuracy": float(others["accuracy"])}
    for name, value in ended.items():
        if not math.isfinite(value) and failure is None:
            failure = f"{name} on test data is {value}"
    found = {
        **ended,
        "epochs": state.epoch,
        "seconds": {kind: _round(value) for kind, value in seconds.items()},
        "exponents": ends,
        "curve": curve,
        "accuracies": accuracies,
        "failure": failure,
    }
    if isinstance(task, fl.tasks.MackeyGlass) and failure is None:
        found |= evaluate(task, state.model)
    return found


def _ends(flossing: fl.Flossing, network: Any) -> list[float]:
    # The first and the last of the flossed exponents, always along the same sequence.
    exponents = measure_exponents(flossing, network, jax.random.key(0))
    return [_round(exponents[0]), _round(exponents[-1])]


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")
