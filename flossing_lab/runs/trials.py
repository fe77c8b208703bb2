"""Training on a task: a batch of trials, the inputs of one trial for flossing, and the mean score over a batch.

Equal tasks make equal functions, so that runs that differ only in their seeds share compiled programs.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from flossing import cells
from flossing._types import RandomKey


class Inputs(eqx.Module):
    """Draws the inputs of a flossing epoch: one sequence of the task."""

    task: Any = eqx.field(static=True)

    def __call__(self, key: RandomKey) -> Array:
        return self.task(key).inputs


class Batch(eqx.Module):
    """Draws a batch of trials."""

    task: Any = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, key: RandomKey) -> Any:
        return jax.vmap(self.task)(jax.random.split(key, self.size))


class Loss(eqx.Module):
    """The mean loss of a network over a batch, and its mean accuracy; of the task's score."""

    task: Any = eqx.field(static=True)

    def __call__(self, model: cells.Network, batch: Any):
        score = jax.vmap(self.task.score)(jax.vmap(model.outputs)(batch.inputs), batch)
        return score.loss.mean(), {"accuracy": score.accuracy.mean()}
