"""The configuration of one run: one frozen, typed value that the command line, a file and a run directory share.

The defaults match the reference call of the paper's released code, argument by argument. Every experiment has its own
configuration. None of these modules imports JAX, so `--help` responds immediately.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from flossing_lab.runs.config import (
    Condition,
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
    explain_invalid as explain_invalid,
)

TaskName = Literal["copy", "temporal_xor", "spatial_xor"]

JULIA_NAMES = {
    **{"units": "N", "epochs": "E", "every": "Ef", "interflossing": "Ei", "preflossing": "Ep", "blocks": "Ni"},
    **{"batch": "B", "steps": "T", "window": "Tp", "flossing_steps": "Ti", "seed_initial": "sIC", "seed_input": "sIn"},
    **{"seed_network": "sNet", "seed_basis": "sONS", "learning_rate": "lr", "beta1": "b1", "beta2": "b2"},
    **{"gain": "g", "mean_coupling": "gbar", "amplitude": "I1", "delay": "delay", "input_scale": "wsS"},
    **{"input_mean": "wsM", "readout_scale": "wrS", "readout_mean": "wrM", "bias_scale": "bS", "bias_mean": "bM"},
    **{"target": "Lwnt"},
}
"""The arguments of the released Julia code by field, where one number is one field."""

_FIRST_NAMES = {"threshold": "share", "preflossing": "epochs_before", "interflossing": "epochs_during"}
"""Fields of flossing that had another name before version 0.2, which digests still use."""


class NetworkConfig(Section):
    """The network: x <- J tanh(x) + b + ws s / S, readout wr x + offset."""

    units: Count = 80
    """Number of units N."""
    recurrent: Literal["gaussian", "orthogonal", "lapack"] = "gaussian"
    """Recurrent weights J: Gaussian of standard deviation gain / sqrt(N), or gain times an orthogonal matrix, uniformly
    distributed; lapack: with the signs that a QR factorisation happens to give, as in the released code."""
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
    """The bias b is uniform between BIAS_MEAN and BIAS_MEAN + BIAS_SCALE."""
    bias_mean: Real = 0.0
    """Added to the bias b."""


class TaskConfig(Section):
    """The task: the target of the readout at each step."""

    task: TaskName = "temporal_xor"
    """copy: the bit of DELAY steps ago; temporal_xor: the parity of 2^ORDER bits, DELAY apart; spatial_xor: the
    parity of three channels DELAY steps ago."""
    delay: CountOrZero = 10
    """Basic lag in steps, from 0 for copy, else from 1. The longest lag, the d of the paper's text, is 2^ORDER times
    this for temporal_xor."""
    order: Annotated[int, Field(ge=1, le=16)] = 1
    """temporal_xor: parity of 2^ORDER bits."""
    channels: Literal[1, 3] | None = None
    """Input channels S: 1 for copy and temporal_xor, 3 for spatial_xor. Default: that of the task."""
    amplitude: Real = 1.0
    """Inputs are bits times this; targets follow from the bits themselves."""
    input_kind: Literal["binary"] = "binary"
    """Kind of input. (The released code sets a number for it but never reads it.)"""
    steps: Count = 300
    """Length T of a training sequence."""
    history: Literal["drawn", "zero"] = "drawn"
    """Targets that depend on bits before the sequence. drawn: earlier bits are drawn, too. zero: targets are 0 up to
    step DELAY (2^ORDER - 1), as in the released code."""
    first_scored: Count | None = None
    """First scored step, counted from 1. Default: the longest lag. (For task numbers above 0, the released code uses
    2 DELAY.)"""


class TrainingConfig(Section):
    """Training on the task with Adam, after clipping the gradient norm of each array separately."""

    epochs: Count = 3001
    """Training epochs, one fresh batch each."""
    batch: Count = 16
    """Sequences in a batch."""
    learning_rate: PositiveReal = 1e-3
    """Adam's learning rate, for training and, unless FLOSSING_RATE is given, for flossing."""
    decay: CountOrZero = 0
    """Number of final epochs over which the training learning rate falls linearly to 0; 0 keeps it constant."""
    beta1: Fraction = 0.9
    """Adam's decay rate of the first moment, in both optimisers."""
    beta2: Fraction = 0.999
    """Adam's decay rate of the second moment, in both optimisers."""
    clip: PositiveReal = 0.03
    """Largest Frobenius norm of each array's gradient."""
    chunk: Annotated[int, Field(ge=1, le=10**5)] = 100
    """Largest number of epochs per chunk. After each chunk, the run shows progress, writes metrics, measures exponents
    and may write a checkpoint."""
    singular_values_every: CountOrZero = 100
    """Epochs between records of the singular values of the raw gradients dL/dJ and dL/dx0; 0 for none."""


class FlossingConfig(Section):
    """Gradient flossing: when, how long, and which exponents. Some defaults depend on CONDITION; the first one given is
    that of the reference."""

    condition: Condition = "before_and_during"
    """When to floss: none; before training; during training; or both, at fixed epochs. adaptive: before training, and
    during it while the gradient does not reach the initial states: |dL/dx0| <= THRESHOLD |dL/dJ|, with the norms
    before clipping."""
    k: Count | None = None
    """Number of exponents to floss, from the largest. Default: 75, or all if there are fewer; adaptive: all."""
    target: Real = 0.0
    """Target value of the flossed exponents, per step."""
    window: Count | None = None
    """Steps over which exponents are measured. Default: 55; adaptive: twice the longest lag, at most STEPS."""
    transient: CountOrZero | None = None
    """First steps of the window, left out of the average. Default: 10 + WINDOW / 10, rounded up, at most WINDOW / 2."""
    interval: Count | Literal["auto"] = "auto"
    """Reorthonormalisation interval in steps. auto: the longest that TOLERANCE allows, adapted every ten epochs."""
    tolerance: PositiveReal | None = None
    """Largest relative deviation of the gradient with interval=auto from the gradient with QR after every step.
    Default: 1e-3 in float32, 1e-9 in float64."""
    flossing_steps: Count = 300
    """Length of the sequence drawn for flossing. The window is its first part. (adaptive: at least the window.)"""
    preflossing: CountOrZero | None = None
    """Flossing epochs before the first training epoch (preflossing). Default: 500; adaptive: 1500."""
    interflossing: CountOrZero | None = None
    """Flossing epochs in each block during training (interflossing). Default: 500; adaptive: 50."""
    every: Count | None = None
    """Training epochs between blocks or, if adaptive, between checks of the rule. Default: 100; adaptive: 25."""
    blocks: CountOrZero = 2
    """Largest number of blocks; adaptive: no limit."""
    flossing_rate: PositiveReal | None = None
    """Adam's learning rate for flossing. Default: LEARNING_RATE."""
    flossing_clip: PositiveReal | None = None
    """Largest gradient norm in a flossing epoch, over all arrays together. Default: no limit, as in the reference."""
    threshold: PositiveReal | None = None
    """adaptive: floss while |dL/dx0| / |dL/dJ| is at most this. Default: 0.004 / sqrt(BATCH), since the ratio falls
    with batch size: with 16 sequences, the ratio is 1e-3 to 1e-2 for networks that learn, and below 1e-4 for others."""


class Plan(NamedTuple):
    """The flossing settings of a run: the fields of the same names, with their defaults filled in."""

    k: int
    window: int
    preflossing: int
    interflossing: int
    every: int
    flossing_rate: float
    threshold: float


class TermConfig(Section):
    """Flossing as a term of the loss, in addition to flossing blocks or, with `condition` none, instead of them."""

    term_weight: RealOrZero = 0.0
    """Weight of the mean squared exponent that is added to the task loss; 0 for the task loss alone."""
    term_every: Count = 1
    """Period of the term in training epochs; 1 adds it in every epoch."""


class StoppingConfig(Section):
    """Early stopping, by the mean accuracy over the last 100 epochs."""

    stop_at: Fraction | None = None
    """Stop at this accuracy. Default: never."""
    give_up_after: Count | None = None
    """Stop after this many epochs if the accuracy has never reached GIVE_UP_BELOW. Default: never."""
    give_up_below: Fraction = 0.55
    """Any accuracy below this counts as chance."""


class SeedConfig(Section):
    """Seeds of independent random streams. Streams with the same seed still draw different numbers."""

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
    """Floating-point precision of all computations."""
    experiment: Literal["reference"] = "reference"
    """The experiment that this run belongs to."""

    argument_notes: ClassVar[Mapping[str, str]] = {
        **{field: f"Julia: {name}." for field, name in JULIA_NAMES.items()},
        **{"k": "Julia: nLE.", "recurrent": "Julia: IC, 1 or 3 (lapack).", "channels": "Julia: S."},
        **{"task": "Julia: task, 0 for copy, -ORDER for temporal_xor.", "input_kind": "Julia: intype."},
    }
    units_are: ClassVar[str] = "tanh"
    driven_by: ClassVar[str] = "random bits"

    @model_validator(mode="before")
    @classmethod
    def _read_first_names(cls, values: Any) -> Any:
        # Run directories from before version 0.2 use the first names.
        flossing = values.get("flossing") if isinstance(values, dict) else None
        if not isinstance(flossing, dict):
            return values
        first = {first: now for now, first in _FIRST_NAMES.items() if now not in flossing}
        return {**values, "flossing": {first.get(name, name): value for name, value in flossing.items()}}

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.k > self.network.units:
            raise ValueError(
                f"k must be an integer from 1 to {self.network.units} (the number of units), got k={self.k}"
            )
        if self.task.delay < 1 and self.task.task != "copy":
            raise ValueError(f"delay must be at least 1 for {self.task.task}, got delay={self.task.delay}")
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

    @classmethod
    def from_call(cls, text: str) -> "Config":
        """The configuration of a call of the released Julia code, `trainRNNflossing(...)` or its 33 numbers.

        Raises ValueError, by its Julia name, for an argument that is refused. See `flossing_lab.reference.call`.

            config = Config.from_call("trainRNNflossing(80, 3001, 100, 500, 500, 2, 16, ...)")
        """
        from flossing_lab.reference.call import read_call

        return read_call(text).config

    @property
    def longest_lag(self) -> int:
        """The longest lag of the task, in steps."""
        return self.task.delay * (2**self.task.order if self.task.task == "temporal_xor" else 1)

    @property
    def plan(self) -> Plan:
        """The flossing settings; their defaults depend on the condition, the network, the task and the training."""
        filled = {name: getattr(self.flossing, name) for name in Plan._fields}
        return self._default_plan._replace(**{name: value for name, value in filled.items() if value is not None})

    @property
    def _default_plan(self) -> Plan:
        units, training = self.network.units, self.training
        # x0 has one row per sequence, so its gradient norm falls with the square root of the batch; that of J does not.
        common = {"flossing_rate": training.learning_rate, "threshold": 4e-3 / math.sqrt(training.batch)}
        if self.condition == "adaptive":
            window = max(1, min(2 * self.longest_lag, self.task.steps))
            return Plan(k=units, window=window, preflossing=1500, interflossing=50, every=25, **common)
        return Plan(k=min(75, units), window=55, preflossing=500, interflossing=500, every=100, **common)

    def values(self) -> dict[str, Any]:
        """All fields that affect the result, named as on the command line.

        The defaults of a condition are filled in; a field that states the default of its task is None.
        """
        values = super().values()
        said = {name: None for name, value in self._task_defaults.items() if values[name] == value}
        return {**values, **said, **self.plan._asdict()}

    @property
    def _task_defaults(self) -> dict[str, Any]:
        """What the task fills in for fields that are None."""
        return {"channels": 3 if self.task.task == "spatial_xor" else 1, "first_scored": max(self.longest_lag, 1)}

    def _non_defaults(self) -> dict[str, Any]:
        # Values equal to their default are left out, as if they had not been given.
        stated, defaults = super()._non_defaults(), self._default_plan._asdict()
        flossing = {name: value for name, value in stated.pop("flossing", {}).items() if value != defaults.get(name)}
        flossing = {_FIRST_NAMES.get(name, name): value for name, value in flossing.items()}
        filled = self._task_defaults
        task = {name: value for name, value in stated.pop("task", {}).items() if value != filled.get(name)}
        sections = {"task": task, "flossing": flossing}
        return stated | {name: section for name, section in sections.items() if section}

    @property
    def window(self) -> int:
        """Steps over which flossing measures exponents."""
        return self.plan.window

    @property
    def name(self) -> str:
        """A short name that identifies the run."""
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
    def keeps_its_length(self) -> str | None:
        """Why a run with these settings cannot be lengthened, in words; None if it can."""
        decay = self.training.decay
        return f"whose learning rate falls to 0 there, with decay={decay}" if decay else None

    @property
    def condition(self) -> Condition:
        """When the run flosses."""
        return self.flossing.condition

    @property
    def k(self) -> int:
        """Number of exponents in its spectra."""
        return self.plan.k

    @property
    def clip(self) -> float:
        """Largest norm of each array's gradient."""
        return self.training.clip


CONFIG = Config
