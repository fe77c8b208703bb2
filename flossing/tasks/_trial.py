"""Trials, the protocol of tasks, and scores of the outputs of a network."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from flossing._types import RandomKey


class Trial(NamedTuple):
    """One sequence of a task: `inputs` (T, S), `targets` (T,) or (T, O), `mask` (T,) of the steps that are scored.

    Targets are (T,) for one output and (T, O) for several. They are bits (0 and 1) or numbers, in the floating dtype of
    the inputs, or classes, integers from 0. Where the mask is False they are ignored.
    """

    inputs: Float[Array, "T S"]
    targets: Num[Array, "T *O"]
    mask: Bool[Array, " T"]


class Score(NamedTuple):
    """`loss`, in nats for bits and classes, and `accuracy`, the fraction correct; means over the scored steps."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


class Task(Protocol):
    """The protocol of tasks; any object with these members is one. Training does not use `baseline_loss`."""

    @property
    def channels(self) -> int:
        """S, the channels of the inputs."""
        ...

    @property
    def outputs(self) -> int:
        """O, the outputs of a network that are scored."""
        ...

    @property
    def baseline_loss(self) -> float:
        """The expected loss of the best prediction without memory."""
        ...

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one sequence."""
        ...

    def score(self, outputs: Float[Array, "T O"], trial: Trial) -> Score:
        """Loss and accuracy of the outputs of a network along one sequence."""
        ...


def score_bits(outputs: Float[Array, "T 1"], trial: Trial) -> Score:
    """Binary cross-entropy of logits; a logit of at least 0 predicts 1, below 0 it predicts 0."""
    logits, bits = outputs[:, 0], trial.targets
    loss = jax.nn.softplus(logits) - bits * logits
    return _means(loss, (logits >= 0) == (bits > 0.5), trial.mask)


def score_classes(outputs: Float[Array, "T O"], trial: Trial) -> Score:
    """Cross-entropy of logits; the prediction is the class of the largest one."""
    chosen = jnp.take_along_axis(outputs, trial.targets[:, None], axis=1)[:, 0]
    loss = jax.nn.logsumexp(outputs, axis=1) - chosen
    right = outputs.argmax(1).astype(trial.targets.dtype) == trial.targets
    return _means(loss, right, trial.mask)


def score_numbers(outputs: Float[Array, "T 1"], trial: Trial, tolerance: float) -> Score:
    """Squared error; an output is correct if its error is below `tolerance`."""
    error = outputs[:, 0] - trial.targets
    return _means(jnp.square(error), jnp.abs(error) < tolerance, trial.mask)


def _means(loss: Float[Array, " T"], right: Bool[Array, " T"], mask: Bool[Array, " T"]) -> Score:
    return Score(jnp.mean(loss, where=mask), jnp.mean(right.astype(loss.dtype), where=mask))
