"""Binary tasks that need a memory of known length.

Bits are fair coin tosses. Targets are functions of the bits; inputs are the bits times an amplitude. Each sequence is
drawn with a history of the longest lag before its first step, so that every target is defined. Steps count from 1; the
mask marks the scored steps, those from `first_scored` on.

A `delay` here is the basic lag, as in the released code of the paper. The paper's text names the longest lag
instead: its d is `2 delay` for the XOR of two bits.
"""

import abc
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
class _BinaryTask(abc.ABC):
    steps: int = 300
    delay: int = 10
    amplitude: float = 1.0
    first_scored: int | None = None

    channels: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    least_delay: ClassVar[int] = 1
    baseline_loss: ClassVar[float] = math.log(2)

    def __post_init__(self):
        check_integer("steps", self.steps, least=1)
        check_integer("delay", self.delay, least=self.least_delay)
        if self.first_scored is not None:
            check_integer("first_scored", self.first_scored, least=1, most=self.steps)
        elif self.longest_lag > self.steps:
            raise ValueError(
                f"delay must leave a scored step: the longest lag may be at most steps={self.steps}, "
                f"got delay={self.delay}, whose longest lag is {self.longest_lag}"
            )

    @property
    def longest_lag(self) -> int:
        """The longest lag of a target, in steps; scoring starts by default once this lag is reached."""
        return self.delay

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one sequence, in JAX's default floating dtype."""
        shape = (self.longest_lag + self.steps, self.channels)
        return self.trial(jax.random.bernoulli(key, shape=shape).astype(float))

    def trial(self, bits: Float[Array, "L S"]) -> Trial:
        """The trial for a given stream of bits, history first."""
        inputs = self.amplitude * bits[self.longest_lag :]
        first = self._first_complete if self.first_scored is None else self.first_scored
        mask = jnp.arange(1, self.steps + 1) >= first
        return Trial(inputs, self.targets(bits), mask)

    @abc.abstractmethod
    def targets(self, bits: Float[Array, "L S"]) -> Float[Array, " T"]:
        """The targets alone, one for each step after the history."""

    def score(self, outputs: Float[Array, "T 1"], trial: Trial) -> Score:
        """Binary cross-entropy of the outputs, as logits, and the accuracy of `logits >= 0`."""
        return score_bits(outputs, trial)

    @property
    def _first_complete(self) -> int:
        return self.longest_lag

    def _lagged(self, bits: Float[Array, "L S"], lag: int) -> Float[Array, "T S"]:
        start = self.longest_lag - lag
        return bits[start : start + self.steps]


class DelayedCopy(_BinaryTask):
    """`y_t = s_{t - delay}`: reproduce the input of `delay` steps ago, 0 or more; scored from step `delay` on.

    `steps`: T; `amplitude`: the size of an input bit; `first_scored`: the first scored step, from 1, if not that.
    Raises ValueError for numbers out of range, and if no step is left to score.

    Source: Engelken (NeurIPS 2023), section 4, task 0 of the released code.

        task = fl.tasks.DelayedCopy(steps=100, delay=20)
        trial = task(jax.random.key(0))
    """

    least_delay: ClassVar[int] = 0

    def targets(self, bits: Float[Array, "L S"]) -> Float[Array, " T"]:
        return self._lagged(bits, self.delay)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalXOR(_BinaryTask):
    """`y_t = s_{t-delay} xor s_{t-2 delay} xor ...`: the parity of `2**order` past bits, `delay` apart.

    Scored from step `2**order delay` on, the longest lag. No linear readout of the past bits can solve it.
    `steps`: T; `amplitude`: the size of an input bit; `first_scored`: the first scored step, from 1, if not that.
    Raises ValueError for numbers out of range, and if no step is left to score.

    Source: Engelken (NeurIPS 2023), section 4, task -order of the released code.

        task = fl.tasks.TemporalXOR(steps=100, delay=20)
        trial = task(jax.random.key(0))
    """

    order: int = 1

    def __post_init__(self):
        check_integer("order", self.order, least=1, most=16)
        super().__post_init__()

    @property
    def longest_lag(self) -> int:
        return self.delay * 2**self.order

    def targets(self, bits: Float[Array, "L S"]) -> Float[Array, " T"]:
        lags = range(self.delay, self.longest_lag + 1, self.delay)
        return jnp.stack([self._lagged(bits, lag)[:, 0] for lag in lags]).sum(0) % 2


class SpatialXOR(_BinaryTask):
    """`y_t = s1_{t-delay} xor s2_{t-delay} xor s3_{t-delay}`: parity across three channels at one lag.

    Scored from step `delay` on. Three channels of inputs.
    `steps`: T; `amplitude`: the size of an input bit; `first_scored`: the first scored step, from 1, if not that.
    Raises ValueError for numbers out of range, and if no step is left to score.

    Source: Engelken (NeurIPS 2023), section 5; not in the released code.

        task = fl.tasks.SpatialXOR(steps=100, delay=20)
        trial = task(jax.random.key(0))
    """

    channels: ClassVar[int] = 3

    def targets(self, bits: Float[Array, "L S"]) -> Float[Array, " T"]:
        return self._lagged(bits, self.delay).sum(1) % 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalParity(_BinaryTask):
    """`y_t = s_t xor s_{t-1} xor ... xor s_{t-delay+1}`: the parity of the last `delay` bits, at least 2.

    Scored from step `delay` on, when all of them have been seen. Any `delay` - 1 of the bits say nothing about the
    parity. A network may store the running parity, but must also remember each bit until it leaves the window.
    `steps`: T; `amplitude`: the size of an input bit; `first_scored`: the first scored step, from 1, if not that.
    Raises ValueError for numbers out of range, and if no step is left to score.

    Source: known as N-parity; in this form Khajehabdollahi et al. (ICLR 2024).

        task = fl.tasks.TemporalParity(steps=100, delay=5)
        trial = task(jax.random.key(0))
    """

    def __post_init__(self):
        check_integer("steps", self.steps, least=2)
        check_integer("delay", self.delay, least=2, most=self.steps, note=f" (steps={self.steps})")
        super().__post_init__()

    @property
    def longest_lag(self) -> int:
        return self.delay - 1

    @property
    def _first_complete(self) -> int:
        return self.delay

    def targets(self, bits: Float[Array, "L S"]) -> Float[Array, " T"]:
        return jnp.stack([self._lagged(bits, lag)[:, 0] for lag in range(self.delay)]).sum(0) % 2
