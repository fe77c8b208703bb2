"""The configuration of one run: one frozen, typed value that the command line, a file and a run directory share.

The defaults are the reference call of the paper's released code, argument by argument. The second experiment has its
own, in `balance_config.py`. These rooms import no JAX, so that `--help` answers at once.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from flossing_lab.runs.config import (
    Count,
    CountOrNone,
    Fraction,
    PositiveReal,
    Real,
    RealOrZero,
    RunConfig,
    SafetyConfig,
    Section,
    Seed,
    explain_invalid as explain_invalid,
)

Condition = Literal["none", "before", "during", "before_and_during", "adaptive"]
TaskName = Literal["copy", "temporal_xor", "spatial_xor"]


class NetworkConfig(Section):
    """The network: x <- J tanh(x) + b + ws s / S, readout wr x + offset."""

    units: Count = 80
    """Number of units N."""
    recurrent: Literal["gaussian", "orthogonal"] = "gaussian"
    """Recurrent weights J: Gaussian of standard deviation gain / sqrt(N), or gain times an orthogonal matrix."""
    gain: Real = 1.0
    """Gain g of the recurrent weights."""
    mean_coupling: Real = 0.0
    """Mean of the recurrent weights, times N (Gaussian ones only)."""
    input_scale: Real = 1.0
    """Standard deviation of the input weights ws."""
    input_mean: Real = 0.0
    """Mean of the input weights ws."""
    readout_scale: Real = 1.0
    """Standard deviation of the readout weights wr."""
    readout_mean: Real = 0.0
    """Mean of the readout weights wr."""
    bias_scale: Real = 0.1
    """The bias b is uniform between 0 and this, plus its mean."""
    bias_mean: Real = 0.0
    """Added to the bias b."""


class TaskConfig(Section):
    """The task: what the readout must say at each step."""

    task: TaskName = "temporal_xor"
    """copy: the bit of DELAY steps ago; temporal_xor: the parity of 2^ORDER bits, DELAY apart; spatial_xor: the
    parity of three channels DELAY steps ago."""
    delay: Count = 10
    """Basic lag in steps. The longest lag, the d of the paper's text, is 2^ORDER times this for temporal_xor."""
    order: Annotated[int, Field(ge=1, le=16)] = 1
    """temporal_xor: parity of 2^ORDER bits."""
    channels: Literal[1, 3] | None = None
    """Input channels S: 1 for copy and temporal_xor, 3 for spatial_xor, which is also the default."""
    amplitude: Real = 1.0
    """Inputs are bits times this; targets come from the bits."""
    input_kind: Literal["binary"] = "binary"
    """Kind of input; the released code has a number for it that nothing reads."""
    steps: Count = 300
    """Length T of a training sequence."""
    first_scored: Count | None = None
    """First scored step, from 1. Default: the longest lag. (2 DELAY says what the released code does for a task
    number above 0.)"""


class TrainingConfig(Section):
    """Training on the task, by Adam after limiting the norm of each array's gradient on its own."""

    epochs: Count = 3001
    """Training epochs, one fresh batch each."""
    batch: Count = 16
    """Sequences in a batch."""
    learning_rate: PositiveReal = 1e-3
    """Adam's step size, for training and, unless FLOSSING_RATE is given, for flossing."""
    decay: CountOrNone = 0
    """Over so many epochs at the end of EPOCHS, the step size of training falls to 0, linearly; 0 keeps it as it is."""
    beta1: Fraction = 0.9
    """Adam's decay of the first moment, both optimisers."""
    beta2: Fraction = 0.999
    """Adam's decay of the second moment, both optimisers."""
    clip: PositiveReal = 0.03
    """Largest Frobenius norm of each array's gradient."""
    chunk: Annotated[int, Field(ge=1, le=10**5)] = 100
    """At most so many epochs run between two looks: progress, metrics on disk, exponents, perhaps a checkpoint."""
    singular_values_every: CountOrNone = 100
    """Epochs between two records of the singular values of the raw dL/dJ and dL/dx0; 0 for none."""


class FlossingConfig(Section):
    """Gradient flossing: when, how long, and what. Some defaults depend on CONDITION; the first is the reference's."""

    condition: Condition = "before_and_during"
    """When to floss: none; before training; during it; or both, at fixed epochs. adaptive: before it, and during it
    while the gradient does not reach back: |dL/dx0| <= THRESHOLD |dL/dJ|, the norms before clipping."""
    k: Count | None = None
    """How many exponents are flossed, from the largest. Default: 75, or all if there are fewer; adaptive: all."""
    target: Real = 0.0
    """The value they are pulled to, per step."""
    window: Count | None = None
    """Steps over which exponents are measured. Default: 55; adaptive: twice the longest lag, at most a sequence."""
    transient: CountOrNone | None = None
    """Steps of the window left out of the average. Default: 10 + WINDOW / 10, rounded up, and at most half of it."""
    interval: Count | Literal["auto"] = "auto"
    """Steps between re-orthonormalisations. auto: as many as TOLERANCE allows, chosen anew after every ten epochs."""
    tolerance: PositiveReal | None = None
    """How far interval=auto may move the gradient from that with QR after every step, relative to its norm. Default:
    1e-3 in float32, 1e-9 in float64."""
    flossing_steps: Count = 300
    """Length of the sequence drawn for flossing, of which the window is the start. (adaptive: at least the window.)"""
    epochs_before: CountOrNone | None = None
    """Flossing epochs before the first training epoch (preflossing). Default: 500; adaptive: 1500."""
    epochs_during: CountOrNone | None = None
    """Flossing epochs in each block during training (interflossing). Default: 500; adaptive: 50."""
    every: Count | None = None
    """Training epochs between blocks; adaptive: after which it is asked again. Default: 100; adaptive: 25."""
    blocks: CountOrNone = 2
    """At most so many blocks; adaptive: as many as it takes."""
    flossing_rate: PositiveReal | None = None
    """Adam's step size for flossing. Default: LEARNING_RATE."""
    flossing_clip: PositiveReal | None = None
    """Largest norm of the gradient in a flossing epoch, all arrays together. Default: any, as the reference."""
    threshold: PositiveReal | None = None
    """adaptive: the ratio |dL/dx0| / |dL/dJ| up to which it flosses. Default: 0.004 / sqrt(BATCH), since the ratio
    falls with the batch: with 16 sequences it is 1e-3 to 1e-2 for networks that learn, below 1e-4 if nothing is learnt.
    """


class Plan(NamedTuple):
    """How a run flosses: the fields of these names, with their defaults filled in."""

    k: int
    window: int
    epochs_before: int
    epochs_during: int
    every: int
    flossing_rate: float
    threshold: float


class TermConfig(Section):
    """Flossing as a term of the loss, beside blocks of flossing or, with `condition` none, instead of them."""

    term_weight: RealOrZero = 0.0
    """The loss is that of the task plus this times the mean squared exponent; 0 for the task alone."""
    term_every: Count = 1
    """Training epochs from one in which the term is added to the next."""


class StoppingConfig(Section):
    """When training ends before its last epoch, by the accuracy: its mean over the last 100 epochs."""

    stop_at: Fraction | None = None
    """End at this accuracy. Default: never."""
    give_up_after: Count | None = None
    """After so many epochs, end if the accuracy was never GIVE_UP_BELOW. Default: never."""
    give_up_below: Fraction = 0.55
    """What is as good as chance."""


class SeedConfig(Section):
    """Seeds, each for its own stream: equal seeds do not give equal numbers."""

    seed_network: Seed = 1
    """Seed of the weights."""
    seed_initial: Seed = 1
    """Seed of the initial states."""
    seed_input: Seed = 1
    """Seed of the input bits."""
    seed_basis: Seed = 1
    """Seed of the initial orthonormal basis."""


class Config(RunConfig):
    """One run of the reference experiment; the defaults are the paper's released example."""

    network: NetworkConfig = NetworkConfig()
    task: TaskConfig = TaskConfig()
    training: TrainingConfig = TrainingConfig()
    flossing: FlossingConfig = FlossingConfig()
    term: TermConfig = TermConfig()
    stopping: StoppingConfig = StoppingConfig()
    seeds: SeedConfig = SeedConfig()
    safety: SafetyConfig = SafetyConfig()
    dtype: Literal["float32", "float64"] = "float32"
    """Floating precision of everything."""
    experiment: Literal["reference"] = "reference"
    """Which experiment this is a run of."""

    units_are: ClassVar[str] = "tanh"
    driven_by: ClassVar[str] = "random bits"

    @model_validator(mode="before")
    @classmethod
    def _read_first_names(cls, values: Any) -> Any:
        # Run directories made before version 0.2 know the threshold as `share`.
        flossing = values.get("flossing") if isinstance(values, dict) else None
        if isinstance(flossing, dict) and "share" in flossing and "threshold" not in flossing:
            renamed = {("threshold" if name == "share" else name): value for name, value in flossing.items()}
            return {**values, "flossing": renamed}
        return values

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.k > self.network.units:
            raise ValueError(
                f"k must be an integer from 1 to {self.network.units} (the number of units), got k={self.k}"
            )
        expected = 3 if self.task.task == "spatial_xor" else 1
        if self.task.channels not in (None, expected):
            raise ValueError(f"channels must be {expected} for {self.task.task}, got channels={self.task.channels}")
        if self.condition != "adaptive" and self.window > self.flossing.flossing_steps:
            raise ValueError(
                f"window must be at most flossing_steps={self.flossing.flossing_steps}, got window={self.window}"
            )
        if self.training.decay > self.training.epochs:
            raise ValueError(f"decay must be at most epochs={self.training.epochs}, got decay={self.training.decay}")
        if self.flossing.transient is not None and self.flossing.transient >= self.window:
            raise ValueError(
                f"transient must be less than window={self.window}, got transient={self.flossing.transient}"
            )
        return self

    @property
    def longest_lag(self) -> int:
        """How far back the task looks, in steps."""
        return self.task.delay * (2**self.task.order if self.task.task == "temporal_xor" else 1)

    @property
    def plan(self) -> Plan:
        """How it flosses, with the defaults that depend on the condition, the network, the task and the training."""
        filled = {name: getattr(self.flossing, name) for name in Plan._fields}
        return self._default_plan._replace(**{name: value for name, value in filled.items() if value is not None})

    @property
    def _default_plan(self) -> Plan:
        units, training = self.network.units, self.training
        # x0 has a row for each sequence: its gradient falls with the root of the batch, that of J does not.
        common = {"flossing_rate": training.learning_rate, "threshold": 4e-3 / math.sqrt(training.batch)}
        if self.condition == "adaptive":
            window = min(2 * self.longest_lag, self.task.steps)
            return Plan(k=units, window=window, epochs_before=1500, epochs_during=50, every=25, **common)
        return Plan(k=min(75, units), window=55, epochs_before=500, epochs_during=500, every=100, **common)

    def values(self) -> dict[str, Any]:
        """All that decides the result, by name as on the command line; defaults are filled in."""
        return {**super().values(), **self.plan._asdict()}

    def _said(self) -> dict[str, Any]:
        # What says the same as the default is left out, as if it had not been given.
        said, defaults = super()._said(), self._default_plan._asdict()
        flossing = {name: value for name, value in said.pop("flossing", {}).items() if value != defaults.get(name)}
        if "threshold" in flossing:  # digests know it by its first name
            flossing["share"] = flossing.pop("threshold")
        return {**said, "flossing": flossing} if flossing else said

    @property
    def window(self) -> int:
        """Steps over which flossing measures exponents."""
        return self.plan.window

    @property
    def name(self) -> str:
        """A name that tells runs apart at a glance."""
        return f"{self.task.task}-{self.task.delay}-{self.flossing.condition}-seed{self.seeds.seed_network}"

    @property
    def title(self) -> str:
        """The task in words, with its lags."""
        task = self.task
        if task.task == "temporal_xor":
            lags = [task.delay * i for i in range(1, 2**task.order + 1)]
            shown = ", ".join(map(str, lags[:-1])) if len(lags) <= 4 else f"{lags[0]}, {lags[1]}, ..."
            return f"Temporal XOR at lags {shown} and {lags[-1]}"
        return f"{'Copy' if task.task == 'copy' else 'Spatial XOR of three channels'} at lag {task.delay}"

    @property
    def condition(self) -> Condition:
        """When it flosses."""
        return self.flossing.condition

    @property
    def k(self) -> int:
        """How many exponents its spectra hold."""
        return self.plan.k

    @property
    def clip(self) -> float:
        """Largest norm of each array's gradient."""
        return self.training.clip


CONFIG = Config
