"""Networks of the reference experiment along their training."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from flossing._spectra.jacobian import long_term_jacobian
from flossing._training.train import Chunk, TrainingState, init_training, train
from flossing_lab.paper.calculations.flossed import WARMUP_STEPS, measuring_bits, to_float64
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from flossing_lab.runs.experiment import Experiment


def condition_through_training(
    networks: int, values: dict[str, Any], epochs: Sequence[int], conditions: Sequence[str], horizons: Sequence[int]
) -> dict[str, np.ndarray]:
    """Train the reference experiment with seeds 1, 2, ..., `values` being further fields of its configuration.

    `log_singular_values` (conditions, networks, epochs, horizons, units) of the long-term Jacobian in float64, natural
    logarithm, along random bits after 100 discarded steps, always the same for a network; `accuracy` (conditions,
    networks): the mean of the last 100 epochs. For `epochs`, see `along_training`.
    """
    units = Config().with_values(**values).network.units
    logs = np.full((len(conditions), networks, len(epochs), len(horizons), units), np.nan)
    accuracy = np.full((len(conditions), networks), np.nan)
    for c, condition in enumerate(conditions):
        for n in range(networks):
            for e, model, accuracies in along_training(values, condition, n + 1, epochs):
                logs[c, n, e] = _log_singular_values(model, n + 1, list(horizons))
                accuracy[c, n] = np.mean(accuracies[-100:])
    return {"log_singular_values": logs, "accuracy": accuracy}


def along_training(
    values: dict[str, Any], condition: str, seed: int, epochs: Sequence[int]
) -> Iterator[tuple[int, reference.ReferenceModel, list[float]]]:
    """Train one network; yield the position in `epochs`, the network, and the accuracies of all epochs so far.

    The first of `epochs` is 0: before training, and after preflossing.
    """
    config = Config().with_values(**values, condition=condition, seed=seed, epochs=max(epochs))
    experiment, accuracies = reference.build(config), []
    state = init_training(experiment.model, experiment.optimiser, experiment.flossing)
    for at, epoch in enumerate(epochs[1:], start=1):
        for done in train_on(experiment, state, epoch):
            if done.kind == "training" and not accuracies:
                yield 0, state.model, [float("nan")]
            state = done.state
            accuracies += [] if done.kind == "flossing" else done.metrics["accuracy"].tolist()
        yield at, state.model, accuracies


def train_on(experiment: Experiment, state: TrainingState, epochs: int) -> Iterator[Chunk]:
    """Train from `state` up to epoch `epochs`, with the settings of the experiment."""
    return train(
        state,
        loss=experiment.loss,
        batch=experiment.batch,
        optimiser=experiment.optimiser,
        key=experiment.key,
        epochs=epochs,
        flossing=experiment.flossing,
        schedule=experiment.schedule,
    )


def _log_singular_values(model: reference.ReferenceModel, seed: int, horizons: Sequence[int]) -> np.ndarray:
    with jax.enable_x64(True):
        model = to_float64(model)
        bits, state = measuring_bits(seed, max(horizons)), reference.first_state(model)
        state = lax.scan(lambda h, s: (reference.step(model, h, s), None), state, bits[:WARMUP_STEPS])[0]
        options = {"state": state, "step": reference.step, "horizons": horizons}
        found = long_term_jacobian(model, bits[WARMUP_STEPS:][: max(horizons)], **options)
        return np.asarray(found.log_singular_values)
