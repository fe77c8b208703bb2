"""The configuration of the balance experiment: networks that balance themselves.

The defaults are those of the released code.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from flossing_lab.runs.config import (
    Count,
    CountOrZero,
    Fraction,
    PositiveReal,
    Real,
    RealOrZero,
    RunConfig,
    SafetyConfig,
    Section,
    Seed,
)

LEAST_STEP = 1e-4
"""With smaller steps, relaxing the initial state would take minutes."""

LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
"""The largest finite number of each precision."""


class BalanceNetworkConfig(Section):
    """The network: x <- x + dt (-x + J relu(x) + ws s / S) + sigma sqrt(dt) xi, readout wr relu(x) / N."""

    units: Count = 100
    """Number of units N."""
    dt: PositiveReal = 0.2
    """Duration of a step, in time constants of the network."""
    sigma: RealOrZero = 1.0
    """Strength of the noise that each unit receives."""
    gain: Real = 0.032
    """Standard deviation of the recurrent weights J, times sqrt(N). The diagonal of J is zero."""
    mean_coupling: Real = -1.0
    """Mean of the recurrent weights, times N. The target is the signal divided by -MEAN_COUPLING."""
    input_scale: Real = 0.01
    """Standard deviation of the input weights ws."""
    input_mean: Real = 1.0
    """Mean of the input weights ws."""
    readout_scale: Real = 0.2
    """Standard deviation of the readout weights wr."""
    readout_mean: Real = 1.0
    """Mean of the readout weights wr."""


class BalanceTaskConfig(Section):
    """The task: reproduce Ornstein-Uhlenbeck signals as they arrive."""

    signals: Count = 1
    """Number of independent signals S, each with its own input and readout."""
    tau: PositiveReal = 0.1
    """Correlation time of a signal, in time constants of the network."""
    amplitude: Real = 0.1
    """Strength of a signal's fluctuations I1, whose standard deviation is I1 / sqrt(2 tau)."""
    mean_signal: Real = 1.0
    """Mean I0 of a signal; also its initial value."""
    steps: Count = 50
    """Length T of a sequence, in steps of dt."""
    first_scored: Count | None = None
    """First scored step, from 1. Default: a fifth of T."""


class BalanceTrainingConfig(Section):
    """Training of the input, recurrent and readout weights by Adam, without clipping."""

    epochs: Count = 100_001
    """Training epochs, one fresh batch of signals and noise each."""
    batch: Count = 10
    """Sequences in a batch."""
    learning_rate: PositiveReal = 1e-3
    """Adam's learning rate."""
    beta1: Fraction = 0.9
    """Adam's decay rate of the first moment."""
    beta2: Fraction = 0.999
    """Adam's decay rate of the second moment."""
    activity_cost: RealOrZero = 1e-4
    """Weight of the summed squares of x in the loss."""
    relax_every: Count = 1000
    """Training epochs between relaxations of the initial state, with the current weights."""
    chunk: Annotated[int, Field(ge=1, le=10**5)] = 1000
    """Largest number of epochs per chunk. After each chunk, the run shows progress, writes metrics and may write a
    checkpoint."""


class MeasuringConfig(Section):
    """Measurements besides the loss."""

    test_every: Count = 1000
    """Training epochs between tests, which do not affect training."""
    clusters: Count | None = None
    """Number of clusters into which k-means divides the neurons, by their columns of J. Default: one per signal."""
    spectrum_steps: Count = 1000
    """Steps over which the Lyapunov spectrum is averaged, before and after training."""


class BalanceSeedConfig(Section):
    """Seeds of independent random streams: equal seeds do not give equal numbers."""

    seed_network: Seed = 1
    """Seed of the weights."""
    seed_input: Seed = 1
    """Seed of the signals and of the noise."""
    seed_basis: Seed = 1
    """Seed of the initial orthonormal basis for measuring exponents."""


class BalanceSafetyConfig(SafetyConfig):
    """As in the reference experiment, with fewer snapshots, since runs are longer; no effect on a successful run."""

    snapshots_every: CountOrZero = 1000
    """Training epochs between snapshots of the parameters, from which the film is made; 0 for none."""


class BalanceConfig(RunConfig):
    """One run of the balance experiment; the defaults are the released example."""

    network: BalanceNetworkConfig = BalanceNetworkConfig()
    task: BalanceTaskConfig = BalanceTaskConfig()
    training: BalanceTrainingConfig = BalanceTrainingConfig()
    measuring: MeasuringConfig = MeasuringConfig()
    seeds: BalanceSeedConfig = BalanceSeedConfig()
    safety: BalanceSafetyConfig = BalanceSafetyConfig()
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point precision of all computations."""
    experiment: Literal["balance"] = "balance"
    """The experiment that this run belongs to."""

    units_are: ClassVar[str] = "rectified"
    driven_by: ClassVar[str] = "signals and frozen noise"

    @model_validator(mode="after")
    def _check(self) -> "BalanceConfig":
        units, steps, dt = self.network.units, self.task.steps, self.network.dt
        if dt < LEAST_STEP:
            raise ValueError(f"dt must be at least {LEAST_STEP}, got dt={dt}")
        tau, amplitude = self.task.tau, self.task.amplitude
        if abs(amplitude) / math.sqrt(2 * tau) > LARGEST[self.dtype]:
            raise ValueError(
                f"amplitude / sqrt(2 tau) must be finite in {self.dtype}, got amplitude={amplitude}, tau={tau}"
            )
        if self.network.mean_coupling == 0:
            raise ValueError("mean_coupling must not be 0, since targets are divided by it, got mean_coupling=0.0")
        if self.task.signals > units:
            raise ValueError(f"signals must be at most units={units}, got signals={self.task.signals}")
        if self.clusters > units:
            raise ValueError(f"clusters must be at most units={units}, got clusters={self.clusters}")
        if self.task.first_scored is not None and self.task.first_scored > steps:
            raise ValueError(f"first_scored must be at most steps={steps}, got first_scored={self.task.first_scored}")
        return self

    @property
    def clusters(self) -> int:
        """Number of clusters to find."""
        return self.measuring.clusters or self.task.signals

    @property
    def name(self) -> str:
        """A short name that identifies the run."""
        return f"balance-S{self.task.signals}-seed{self.seeds.seed_network}"

    @property
    def title(self) -> str:
        """The task in words."""
        signals = self.task.signals
        return f"Tracking {f'{signals} signals' if signals > 1 else 'a signal'} by a network that balances itself"

    @property
    def condition(self) -> Literal["none"]:
        """When the run flosses: never."""
        return "none"

    @property
    def k(self) -> int:
        """Number of exponents in its spectra: all."""
        return self.network.units

    @property
    def clip(self) -> None:
        """Largest norm of a gradient: no limit."""
        return None


CONFIG = BalanceConfig
