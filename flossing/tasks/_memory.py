"""The two classical tests of a long memory."""

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
    """Remember 10 symbols over `delay` steps, then give them back in their order; T = `delay` + 20 steps.

    Symbols are the classes 0 to 7, all as likely, 8 is the blank, 9 the delimiter. Inputs are one-hot, 10 channels:
    the symbols, `delay` - 1 blanks, the delimiter, 10 blanks. Targets are the blank for `delay` + 10 steps, then the
    symbols; 9 outputs, since the delimiter is none of them. A symbol is wanted `delay` + 10 steps after it was seen.

    All steps are scored. Whoever knows when to answer, but not what, gives the 8 symbols the same probability and has
    the trivial loss `10 log(8) / (delay + 20)`. The accuracy is that of the last 10 steps alone, 1/8 for a guess.

    Source: Hochreiter & Schmidhuber (Neural Computation 1997); in this form Arjovsky, Shah & Bengio (ICML 2016).
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
    """Add the two marked numbers of a sequence of `steps` steps; the sum is wanted at the last one.

    Two input channels: numbers, uniform in [0, 1), and marks, 1 at one step in each half of the sequence, 0 elsewhere.
    Whoever says 1, the mean, has the trivial loss 1/6, twice the variance of a uniform number. An answer counts as
    right if it is off by less than 0.04.

    Source: Hochreiter & Schmidhuber (Neural Computation 1997), whose criterion this is; marks as in Arjovsky, Shah &
    Bengio (ICML 2016).
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
        """Squared error at the last step; right within 0.04."""
        return score_numbers(outputs, trial, tolerance=0.04)
