"""Delayed match to sample."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.tasks._trial import Score, Trial, score_bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchToSample:
    """Say whether a test stimulus is the sample that was shown `delay` steps before: 1 for a match, 0 otherwise.

    One of `stimuli` samples is shown for `shown` steps, then nothing for `delay` steps, then a test stimulus for
    `shown` steps, and nothing for the last `shown` steps, in which the answer is scored; T = `delay` + 3 `shown`. Half
    of the trials are matches; in the others the test is any other stimulus. Inputs are one channel for each stimulus,
    1 while it is shown, and one for fixation, 1 until the answer is due, all with independent Gaussian noise of
    standard deviation `noise` in each step. Without memory of the sample, half of the answers are right and the loss
    is log 2.

    Raises ValueError for fewer than two stimuli, a `delay` or `shown` below 1 and a negative `noise`.
    Source: the task of Miller, Erickson & Desimone (Journal of Neuroscience 1996), with one test stimulus.

        trial = fl.tasks.MatchToSample(delay=40)(jax.random.key(0))
        print(trial.inputs.shape, trial.targets[-1])
    """

    delay: int = 50
    stimuli: int = 4
    shown: int = 5
    noise: float = 0.1

    outputs: ClassVar[int] = 1
    baseline_loss: ClassVar[float] = math.log(2)

    def __post_init__(self):
        check_integer("delay", self.delay, least=1)
        check_integer("stimuli", self.stimuli, least=2)
        check_integer("shown", self.shown, least=1)
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be a finite number of at least 0, got noise={self.noise!r}")

    @property
    def channels(self) -> int:
        """One for each stimulus, and one for fixation."""
        return self.stimuli + 1

    @property
    def steps(self) -> int:
        """T, the length of a sequence."""
        return self.delay + 3 * self.shown

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one sequence, in JAX's default floating dtype."""
        key_sample, key_match, key_other, key_noise = jax.random.split(key, 4)
        sample = jax.random.randint(key_sample, (), 0, self.stimuli)
        is_match = jax.random.bernoulli(key_match)
        other = (sample + jax.random.randint(key_other, (), 1, self.stimuli)) % self.stimuli
        test = jnp.where(is_match, sample, other)

        time = jnp.arange(self.steps)
        begin = self.shown + self.delay  # of the test stimulus
        is_sample, is_test = time < self.shown, (time >= begin) & (time < begin + self.shown)
        is_answer = time >= begin + self.shown
        seen = jnp.where(is_sample, sample, jnp.where(is_test, test, -1))  # one_hot(-1) is 0 everywhere
        shown = jnp.column_stack([jax.nn.one_hot(seen, self.stimuli), jnp.where(is_answer, 0.0, 1.0)])
        inputs = shown + self.noise * jax.random.normal(key_noise, shown.shape)
        return Trial(inputs, (is_answer & is_match).astype(inputs.dtype), is_answer)

    def score(self, outputs: Float[Array, "T 1"], trial: Trial) -> Score:
        """Binary cross-entropy and accuracy in the steps of the answer."""
        return score_bits(outputs, trial)
