"""Signals to track."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_positive
from flossing._types import RandomKey
from flossing.tasks._trial import Trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeck:
    """S independent Ornstein-Uhlenbeck signals; each target is the signal of the same step, times `target_gain`.

    Unlike a [`tasks.Task`][], it has no score, and the targets of its [`tasks.Trial`][] are (T, S).

        s_{t+1} - mean = exp(-dt/tau) (s_t - mean) + amplitude sqrt((1 - exp(-2 dt/tau)) / (2 tau)) xi_t,    s_1 = mean

    The update is exact for any `dt`, so the values are those of the process in continuous time. Their standard
    deviation grows to `stationary_deviation`, amplitude / sqrt(2 tau). `dt` and `tau` share a unit, the time constant
    of the network if it has one. Steps count from 1; those from `first_scored` on are scored, by default
    from T // 5 on. `channels` and `outputs` are both S.

    Raises ValueError for sizes below 1, `dt` or `tau` not above 0, and numbers that are not finite, including
    `stationary_deviation` in JAX's default floating dtype.
    Source: Uhlenbeck & Ornstein (1930); the defaults are those of Engelken et al. (NeurIPS 2022), released code.

        task = fl.tasks.OrnsteinUhlenbeck(signals=2)
        trial = task(jax.random.key(0))
    """

    signals: int = 1
    steps: int = 50
    dt: float = 0.2
    tau: float = 0.1
    amplitude: float = 0.1
    mean: float = 1.0
    target_gain: float = 1.0
    first_scored: int | None = None

    def __post_init__(self):
        check_integer("signals", self.signals, least=1)
        check_integer("steps", self.steps, least=1)
        check_positive("dt", self.dt)
        check_positive("tau", self.tau)
        for name in ("amplitude", "mean", "target_gain"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {name}={value!r}")
        if abs(self.stationary_deviation) > float(jnp.finfo(jax.dtypes.canonicalize_dtype(float)).max):
            raise ValueError(
                f"amplitude / sqrt(2 tau) must be finite, got amplitude={self.amplitude!r}, tau={self.tau!r}"
            )
        if self.first_scored is not None:
            check_integer("first_scored", self.first_scored, least=1, most=self.steps)

    @property
    def channels(self) -> int:
        """S."""
        return self.signals

    @property
    def outputs(self) -> int:
        """S."""
        return self.signals

    @property
    def stationary_deviation(self) -> float:
        """The standard deviation of a signal a long time after its start."""
        return self.amplitude / math.sqrt(2 * self.tau)

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one sequence, in JAX's default floating dtype."""
        return self.trial(jax.random.normal(key, (self.steps - 1, self.signals)))

    def trial(self, xi: Float[Array, "K S"]) -> Trial:
        """The trial for given noise `xi` (T - 1, S), standard Gaussian numbers, one row per step after the first.

        Inputs and targets have the dtype of `xi`. Raises ValueError for any other shape.
        """
        if xi.shape != (self.steps - 1, self.signals):
            raise ValueError(
                f"xi must be of shape (steps - 1, signals) = {self.steps - 1, self.signals}, got {xi.shape}"
            )
        decay = math.exp(-self.dt / self.tau)
        kick = self.stationary_deviation * math.sqrt(-math.expm1(-2 * self.dt / self.tau))

        def update(deviation, xi):
            deviation = decay * deviation + kick * xi
            return deviation, deviation

        start = jnp.zeros(self.signals, xi.dtype)
        signals = self.mean + jnp.concatenate([start[None], lax.scan(update, start, xi)[1]])
        first = max(1, self.steps // 5) if self.first_scored is None else self.first_scored
        return Trial(signals, self.target_gain * signals, jnp.arange(1, self.steps + 1) >= first)
