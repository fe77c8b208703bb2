"""The task signal in the gradient of a preflossed network: inner products of mean gradients of groups of batches."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from flossing import tasks
from flossing._training.train import init_training
from flossing_lab.paper.calculations.training import train_on
from flossing_lab.reference.config import Config
from flossing_lab.reference.experiment import ReferenceModel, build

GROUPS = 8
"""Number of independent groups that the batches are divided into."""


def target_gradient(model: ReferenceModel, batch: tasks.Trial) -> Float[Array, "N N"]:
    """The derivative with respect to J of the mean of (y - 1/2) z over batch and scored steps; y target, z output.

    At output 0, the cross-entropy has the derivative 1/2 - y with respect to z. This is thus the part of the gradient
    that depends on the task.
    """

    def agreement(model: ReferenceModel) -> Float[Array, ""]:
        scored = batch.mask.astype(batch.targets.dtype)
        return ((batch.targets - 0.5) * model.logits(batch.inputs) * scored).sum() / scored.sum()

    return eqx.filter_grad(agreement)(model).network.J


def signal_after_preflossing(
    units: int, delay: int, seed: int, batches: int, values: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Draw a network, prefloss it, and compute the target gradient of `batches` batches.

    `values` are further fields of the configuration. `gram` (8, 8): inner products of the mean gradients of 8 groups of
    batches; `square` (): the mean squared norm of a single batch's gradient.
    """
    config = Config().with_values(units=units, delay=delay, condition="adaptive", seed=seed, **values)
    experiment = build(config)
    gradient = eqx.filter_jit(target_gradient)
    model, key = _preflossed(experiment), jax.random.key(seed)
    means, square = [], 0.0
    for group in range(GROUPS):
        total = np.zeros((units, units))
        for index in range(group, batches, GROUPS):
            each = np.asarray(gradient(model, experiment.batch(jax.random.fold_in(key, index))), float)
            total, square = total + each, square + (each**2).sum()
        means.append(total.ravel() / len(range(group, batches, GROUPS)))
    return {"gram": np.stack(means) @ np.stack(means).T, "square": np.asarray(square / batches)}


def _preflossed(experiment: Any) -> ReferenceModel:
    model, start = experiment.model, init_training(experiment.model, experiment.optimiser, experiment.flossing)
    for progress in train_on(experiment, start, 1):
        if progress.kind == "flossing":
            model = progress.state.model
    return model
