"""The two classical tests of long-term memory."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.tasks._trial import Score, Trial, score_classes, score_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyMemory:
    """Remember 10 symbols over `delay` steps, then reproduce them in order; T = `delay` + 20 steps.

    Symbols are the classes 0 to 7, equally likely; 8 is the blank, 9 the delimiter. Inputs are one-hot, 10 channels:
    the symbols, `delay` - 1 blanks, the delimiter, 10 blanks. Targets are the blank for `delay` + 10 steps, then the
    symbols; 9 outputs, since the delimiter is never a target. A symbol is due `delay` + 10 steps after its input.

    All steps are scored. A network that knows when to answer, but not what, gives the 8 symbols equal probability and
    has the baseline loss `10 log(8) / (delay + 20)`. The accuracy is that of the last 10 steps alone; chance is 1/8.

    Source: Hochreiter & Schmidhuber (Neural Computation 1997); in this form Arjovsky, Shah & Bengio (ICML 2016).

        task = fl.tasks.CopyMemory(delay=20)
        trial = task(jax.random.key(0))
    """

    delay: int = 50

    channels: ClassVar[int] = 10
    outputs: ClassVar[int] = 9

    def __post_init__(self):
        check_integer("delay", self.delay, least=1)

    @property
    def steps(self) -> int:
        """T, the length of a sequence."""
        return self.delay + 20

    @property
    def baseline_loss(self) -> float:
        """`10 log(8) / (delay + 20)`."""
        return 10 * math.log(8) / self.steps

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one sequence: inputs in JAX's default floating dtype, targets in its default integers."""
        symbols = jax.random.randint(key, (10,), 0, 8)
        shown = jnp.full(self.steps, 8).at[:10].set(symbols).at[self.delay + 9].set(9)
        wanted = jnp.full(self.steps, 8).at[-10:].set(symbols)
        return Trial(jax.nn.one_hot(shown, 10), wanted, jnp.ones(self.steps, bool))

    def score(self, outputs: Float[Array, "T 9"], trial: Trial) -> Score:
        """Cross-entropy over all steps; the accuracy over the last 10."""
        recall = trial._replace(mask=jnp.arange(self.steps) >= self.steps - 10)
        return Score(score_classes(outputs, trial).loss, score_classes(outputs, recall).accuracy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adding:
    """Add the two marked numbers of a sequence of `steps` steps; the target at the last step is their sum.

    Two input channels: numbers, uniform in [0, 1), and marks, 1 at one step in each half of the sequence, 0 elsewhere.
    Always answering 1, the mean, gives the baseline loss 1/6, twice the variance of a uniform number. An answer counts
    as correct if its error is below 0.04.

    Source: Hochreiter & Schmidhuber (Neural Computation 1997), whose criterion this is; marks as in Arjovsky, Shah &
    Bengio (ICML 2016).

        task = fl.tasks.Adding(steps=100)
        trial = task(jax.random.key(0))
    """

    steps: int = 50

    channels: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    baseline_loss: ClassVar[float] = 1 / 6

    def __post_init__(self):
        check_integer("steps", self.steps, least=2)

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one sequence, in JAX's default floating dtype."""
        key_numbers, key_first, key_second = jax.random.split(key, 3)
        half = self.steps // 2
        numbers = jax.random.uniform(key_numbers, (self.steps,))
        first = jax.random.randint(key_first, (), 0, half)
        second = jax.random.randint(key_second, (), half, self.steps)
        marks = jnp.zeros(self.steps).at[first].set(1).at[second].set(1)
        targets = jnp.zeros(self.steps).at[-1].set(numbers[first] + numbers[second])
        return Trial(jnp.stack([numbers, marks], axis=1), targets, jnp.arange(self.steps) == self.steps - 1)

    def score(self, outputs: Float[Array, "T 1"], trial: Trial) -> Score:
        """Squared error at the last step; correct within 0.04."""
        return score_numbers(outputs, trial, tolerance=0.04)
