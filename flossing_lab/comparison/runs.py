"""One run of a task, a network and an arm with a seed; and the process for several seeds.

    python -m flossing_lab.comparison.runs PROTOCOL TASK NETWORK ARM FOLDER --seeds 1,2 [--quick]

Runs that differ only in their seed compile once.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import optax

import flossing as fl
from flossing_lab.comparison.forecast import evaluate
from flossing_lab.comparison.protocol import Arm, Protocol, Settings
from flossing_lab.comparison.protocols import PROTOCOLS
from flossing_lab.runs.files import read_json, write_json
from flossing_lab.runs.reach import Reach

FORMAT = 1
CHUNK = 50
"""Epochs per chunk. A curve has one point per chunk."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """The mean score of a network over a batch, in the form that `train` expects."""

    task: Any

    def __call__(self, network, batch):
        outputs = jax.vmap(network.outputs)(batch.inputs)
        score = jax.vmap(self.task.score)(outputs, batch)
        return score.loss.mean(), {"accuracy": score.accuracy.mean()}


@dataclasses.dataclass(frozen=True)
class Penalised:
    """The loss of a task with `weight` times a penalty; the metrics are those of the task."""

    task: Any
    penalty: Callable[..., Any]
    weight: float

    def __call__(self, network, batch):
        loss, metrics = Loss(self.task)(network, batch)
        return loss + self.weight * self.penalty(network, batch, self.task), metrics


@dataclasses.dataclass(frozen=True)
class Batch:
    """Draws `size` sequences."""

    task: Any
    size: int

    def __call__(self, key):
        return jax.vmap(self.task)(jax.random.split(key, self.size))


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Draws the inputs of a flossing epoch: one sequence of the task."""

    task: Any

    def __call__(self, key):
        return self.task(key).inputs


def optimiser(settings: Settings) -> optax.GradientTransformation:
    """Adam after clipping; equal for all runs of a process."""
    clip = optax.clip_by_global_norm if settings.clip_together else fl.clip_by_array_norm
    return optax.chain(clip(settings.clip), optax.adam(settings.learning_rate))


def test_data(task: Any, settings: Settings) -> fl.tasks.Trial:
    """The test set of the task if it has one, else sequences that training never draws; the same for all seeds."""
    return task.test() if hasattr(task, "test") else Batch(task, settings.test)(jax.random.key(0))


def run(protocol: Protocol, task_name: str, network_name: str, arm_name: str, seed: int) -> dict[str, Any]:
    """Train and test one network of a protocol; return the results to store.

    A seed gives the same network, the same batches and the same sequences for flossing in all arms.
    """
    kind = protocol.networks[network_name]
    settings, task = protocol.chosen(network_name, arm_name), protocol.tasks[task_name].make()
    k = round(kind.share * settings.units)
    found = train_network(task, kind.make, k, protocol.arms[arm_name], settings, seed)
    names = {"format": FORMAT, "task": task_name, "network": network_name, "condition": arm_name, "seed": seed, "k": k}
    return names | found | {"settings": protocol.recorded(task_name, network_name, arm_name)}


def train_network(
    task: Any,
    make: Callable[..., Any],
    k: int,
    arm: Arm,
    settings: Settings,
    seed: int,
    on_chunk: Callable[[fl.TrainingState], None] = lambda state: None,
    trained: Any = None,
) -> dict[str, Any]:
    """Train and test one network: its losses, accuracies, exponents, epochs and seconds.

    `trained` is the loss of training, by default that of the task, by which the network is tested.
    """
    cell_key, readout_key, data_key, basis_key = jax.random.split(jax.random.key(seed), 4)
    network = fl.cells.Network(make(settings.units, task.channels, key=cell_key), task.outputs, key=readout_key)
    flossing = fl.Flossing(
        network,
        Inputs(task),
        state=network.zeros(),
        key=basis_key,
        k=k,
        loss=arm.loss,
        optimiser=optax.adam(arm.rate),
        clip=arm.clip,
    )
    adam, loss = optimiser(settings), Loss(task)
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
            schedule=arm.schedule,
            probe=None if arm.threshold is None else Reach(task, seed, flossing.window),
            probe_every=0 if arm.threshold is None else arm.every,
            chunk=CHUNK,
        ):
            seconds[progress.kind] += time.process_time() - since
            state = progress.state
            on_chunk(state)
            if progress.kind == "training":
                curve.append(_round(progress.metrics["loss"].mean()))
                accuracies.append(_round(progress.metrics["accuracy"].mean()))
                if settings.stop is not None and accuracies[-1] > settings.stop:
                    break
            elif state.epoch == 0 and state.pending == 0:
                ends["flossed"] = _ends(flossing, state.model)
            since = time.process_time()
    except FloatingPointError as error:
        failure = str(error)
    ends["end"] = _ends(flossing, state.model)
    tested, others = eqx.filter_jit(loss)(state.model, test_data(task, settings))
    found = {
        "loss": float(tested),
        "accuracy": float(others["accuracy"]),
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
    exponents = _exponents(flossing, network)
    return [_round(exponents[0]), _round(exponents[-1])]


@eqx.filter_jit
def _exponents(flossing, network):
    return flossing.exponents(network, jax.random.key(0))


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")


def run_file(folder: Path, task: str, network: str, condition: str, seed: int) -> Path:
    """The file of a run."""
    return folder / f"{task}-{network.replace(', ', '_').replace(' ', '-')}-{condition}-{seed}.json"


def is_done(file: Path, protocol: Protocol, task: str, network: str, arm: str) -> bool:
    """Whether the file holds a run with the settings of the protocol."""
    if not file.exists():
        return False
    try:
        found = read_json(file, FORMAT)
    except ValueError:
        return False
    return found["settings"] == json.loads(json.dumps(protocol.recorded(task, network, arm)))


def main(arguments: list[str] | None = None):
    """Perform the missing runs of one cell of the table."""
    parser = argparse.ArgumentParser(prog="python -m flossing_lab.comparison.runs", description=__doc__)
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("task")
    parser.add_argument("network")
    parser.add_argument("arm")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    protocol = PROTOCOLS[options.protocol]
    protocol = protocol.quick() if options.quick else protocol
    for seed in map(int, options.seeds.split(",")):
        cell = options.task, options.network, options.arm
        file = run_file(options.folder, *cell, seed)
        if not is_done(file, protocol, *cell):
            write_json(file, run(protocol, *cell, seed))


if __name__ == "__main__":
    main()
