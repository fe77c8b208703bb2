"""Forecast of a chaotic signal that depends on its own past."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from flossing._checks import check_integer, check_positive
from flossing._types import Input, RandomKey
from flossing.tasks._trial import Score, Trial, score_numbers

SUBSTEPS = 10
"""Runge-Kutta steps in a unit of time."""
LENGTH, TRAINING, SETTLING = 30_000, 20_000, 1_000
"""Units of time: of the signal, of its part for training, and those before it that are dropped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MackeyGlass:
    """Predict the next value of the Mackey-Glass signal at each step; the change of the signal depends on its past.

        dx/dt = 0.2 x(t - delay) / (1 + x(t - delay)^10) - 0.1 x(t)

    A step is one unit of time. The signal is chaotic for the default delay of 17; its present value alone does not
    determine the next. It is integrated once, in float64 (fourth-order Runge-Kutta, ten steps in a unit of time, past
    values interpolated linearly), and divided into a part for training and one for tests; inputs and targets are
    standardised to mean 0 and standard deviation 1. A trial is a piece of it of `steps` steps; the target is the value
    of the next step. The first `delay` steps are not scored. `baseline_loss` is that of the best linear prediction from
    the present value. An output counts as correct within 0.05.

    Raises ValueError for a `delay` below 5, where the signal comes to rest, and for `steps` not above `delay` or
    above 9999.
    Source: Mackey & Glass (Science 1977); the delay of 17 as in Farmer (Physica D 1982).

        task = fl.tasks.MackeyGlass()
        print(fl.lyapunov_spectrum(task.flow, None, state=task.history, steps=5000, k=3))
    """

    delay: int = 17
    steps: int = 200

    channels: ClassVar[int] = 1
    outputs: ClassVar[int] = 1

    def __post_init__(self):
        check_integer("delay", self.delay, least=5, note=" (below 5 the signal comes to rest)")
        note = f" (the first {self.delay} steps, the delay, are not scored)"
        check_integer("steps", self.steps, least=self.delay + 1, most=LENGTH - TRAINING - 1, note=note)

    @property
    def history(self) -> Float[Array, " H"]:
        """A state of `flow` on the attractor: the last `delay` units of time of the signal, the oldest value first."""
        return jnp.asarray(_signal(self.delay)[1], float)

    def flow(self, history: Float[Array, " H"], input: Input = None) -> Float[Array, " H"]:
        """One unit of time of the equation, as a step: the `history` of H = 10 `delay` + 1 values one unit later."""

        def substep(now, past):
            after = _advance(now, *past)
            return after, after

        past = history[:SUBSTEPS], history[1 : SUBSTEPS + 1]  # at least one unit old, so all of it is known
        return jnp.concatenate([history[SUBSTEPS:], lax.scan(substep, history[-1], past)[1]])

    @property
    def baseline_loss(self) -> float:
        """1 - r^2, where r is the correlation of successive values."""
        values = self._values()
        return float(1 - np.corrcoef(values[:-1], values[1:])[0, 1] ** 2)

    def __call__(self, key: RandomKey) -> Trial:
        """Draw a piece of the part for training, in JAX's default floating dtype."""
        return self._piece(jax.random.randint(key, (), 0, TRAINING - self.steps))

    def test(self, count: int = 50) -> Trial:
        """`count` pieces of the part for tests, evenly spaced and stacked, overlapping if they are long."""
        check_integer("count", count, least=1)
        return jax.vmap(self._piece)(jnp.linspace(TRAINING, LENGTH - self.steps - 1, count).astype(int))

    def score(self, outputs: Float[Array, "T 1"], trial: Trial) -> Score:
        """Squared error of the next value, in units of the variance of the signal."""
        return score_numbers(outputs, trial, tolerance=0.05)

    def _values(self) -> np.ndarray:
        signal = _signal(self.delay)[0]
        return (signal - signal.mean()) / signal.std()

    def _piece(self, begin: Int[Array, ""]) -> Trial:
        values = lax.dynamic_slice(jnp.asarray(self._values(), float), (begin,), (self.steps + 1,))
        return Trial(values[:-1, None], values[1:], jnp.arange(self.steps) >= self.delay)


def valid_time(forecast: Float[Array, "K O"], actual: Float[Array, " T"], tolerance: float = 0.4) -> Int[Array, ""]:
    """The number of steps before the error of a forecast first exceeds `tolerance`, in the units of the signal.

    For a standardised signal the units are standard deviations. `forecast`: (T, 1), `actual`: (T,). Raises ValueError
    for other shapes, and for a `tolerance` that is not positive.

        outputs, _ = network.forecast(trial.inputs[:200], steps=500)
        print(fl.tasks.valid_time(outputs, trial.inputs[200:700, 0]))
    """
    check_positive("tolerance", tolerance)
    if forecast.shape != (len(actual), 1):
        raise ValueError(f"forecast must have the shape {len(actual), 1} of actual, got {forecast.shape}")
    is_wrong = ~(jnp.abs(forecast[:, 0] - actual) <= tolerance)  # also where the forecast is not a number
    return jnp.where(is_wrong.any(), is_wrong.argmax(), len(actual))


def _advance(now: Any, past: Any, later: Any) -> Any:
    """The value after a step, from that of now and those of `delay` before the beginning and the end of the step."""
    h = 1 / SUBSTEPS

    def slope(x, delayed):
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

    middle = (past + later) / 2
    k1 = slope(now, past)
    k2 = slope(now + h / 2 * k1, middle)
    k3 = slope(now + h / 2 * k2, middle)
    k4 = slope(now + h * k3, later)
    return now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@functools.cache
def _signal(delay: int) -> tuple[np.ndarray, np.ndarray]:
    """The signal once per unit of time, and all values of its last `delay` units; in float64.

    Over one delay all past values are known, and a step is linear in the present one: a filter of what they drive.
    """
    from scipy.signal import lfilter  # slow to import

    past, steps = delay * SUBSTEPS, SUBSTEPS * (SETTLING + LENGTH)
    decay = _advance(1.0, 0.0, 0.0)
    blocks, last = [], np.full(past + 1, 1.2)
    for _ in range(-(-steps // past)):
        driven = _advance(0.0, last[:-1], last[1:])
        after = lfilter([1.0], [1.0, -decay], driven, zi=[decay * last[-1]])[0]
        blocks.append(after)
        last = np.append(last[-1], after)
    values = np.concatenate(blocks)[:steps]
    return values[SUBSTEPS * SETTLING + SUBSTEPS - 1 :: SUBSTEPS], values[-past - 1 :]
