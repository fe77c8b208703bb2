"""A probe of training: how much of the gradient reaches back, for the adaptive rule."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from flossing import cells
from flossing._spectra.gradient_reach import distant_and_local
from flossing._tangent.problem import Problem
from flossing._tangent.step import call_module


class Reach(eqx.Module):
    """Measures `gradient_reach` of a network along the first `window` steps of a sequence of the task.

    Spiking cells use their surrogate for tasks, since it is the gradient of the task that has to reach back.
    """

    task: Any = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    window: int = eqx.field(static=True)

    def __call__(self, model: cells.Network, gradient: Any) -> dict[str, Array]:
        """The probe that `train` calls."""
        model = cells.with_task_surrogate(model)
        inputs = sequence_of(self.task, self.seed)[: self.window]
        problem = Problem.of(model, model.zeros(), inputs, call_module, self.window)
        distant, local = distant_and_local(problem, jax.random.key(self.seed))
        return {"gradient_reach": distant / local}


def blocks_below(threshold: float, epochs: int) -> Callable[[int, Mapping[str, Any]], int]:
    """The rule of a schedule: `epochs` of flossing wherever the reach is at most `threshold`, or not a number."""
    return lambda epoch, measures: 0 if float(measures["gradient_reach"]) > threshold else epochs


def sequence_of(task: Any, seed: int) -> Array:
    """The inputs of a sequence that training never draws."""
    return task(jax.random.fold_in(jax.random.key(seed), 2**31)).inputs
