"""The task of the reference experiment: what `config` names, its batches, and the inputs of flossing."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing import tasks
from flossing._types import RandomKey
from flossing_lab.reference.config import Config

Task = tasks.DelayedCopy | tasks.TemporalXOR | tasks.SpatialXOR


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroHistoryXOR(tasks.TemporalXOR):
    """The temporal XOR whose targets are 0 up to step `delay (2**order - 1)`, as in the released code.

    There, a target is set only once the bits of its lags have all been drawn, and one delay of them precedes the
    sequence.
    """

    def targets(self, bits: Float[Array, "L S"]) -> Float[Array, " T"]:
        is_set = jnp.arange(1, self.steps + 1) > self.longest_lag - self.delay
        return jnp.where(is_set, super().targets(bits), 0)


def make_task(config: Config) -> Task:
    """The task that `config` names. Raises ValueError if its delay leaves no scored step."""
    task = config.task
    common = {
        "steps": task.steps,
        "delay": task.delay,
        "amplitude": task.amplitude,
        "first_scored": task.first_scored,
    }
    if task.task == "temporal_xor":
        kind = ZeroHistoryXOR if task.history == "zero" else tasks.TemporalXOR
        return kind(order=task.order, **common)
    return {"copy": tasks.DelayedCopy, "spatial_xor": tasks.SpatialXOR}[task.task](**common)


class FlossingInputs(eqx.Module):
    """Draws the inputs that drive one flossing epoch, `inputs(key)`."""

    steps: int = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    amplitude: float = eqx.field(static=True)

    def __call__(self, key: RandomKey) -> Float[Array, "T S"]:
        return self.amplitude * jax.random.bernoulli(key, shape=(self.steps, self.channels)).astype(float)
