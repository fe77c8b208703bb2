"""The configuration of one run: one frozen, typed value that the command line, a file and a run directory share.

The defaults are the reference call of the paper's released code, argument by argument. This room imports no JAX, so
that `--help` answers at once.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]
Real = Annotated[float, Field(allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

Condition = Literal["none", "before", "during", "before_and_during"]
TaskName = Literal["copy", "temporal_xor", "spatial_xor"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


class NetworkConfig(_Section):
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


class TaskConfig(_Section):
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


class TrainingConfig(_Section):
    """Training on the task, by Adam after limiting the norm of each array's gradient on its own."""

    epochs: Count = 3001
    """Training epochs, one fresh batch each."""
    batch: Count = 16
    """Sequences in a batch."""
    learning_rate: PositiveReal = 1e-3
    """Adam's step size, for training and for flossing."""
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


class FlossingConfig(_Section):
    """Gradient flossing: when, how long, and what."""

    condition: Condition = "before_and_during"
    """When to floss: none; before training; during it; or both."""
    k: Count = 75
    """How many exponents are flossed, from the largest."""
    target: Real = 0.0
    """The value they are pulled to, per step."""
    window: Count = 55
    """Steps over which exponents are measured."""
    transient: CountOrNone | None = None
    """Steps of the window left out of the average. Default: 10 + WINDOW / 10, rounded up, and at most half of it."""
    interval: Count | Literal["auto"] = "auto"
    """Steps between re-orthonormalisations. auto: as many as TOLERANCE allows, chosen anew after each chunk."""
    tolerance: PositiveReal | None = None
    """How far interval=auto may move the gradient from that with QR after every step, relative to its norm. Default:
    1e-3 in float32, 1e-9 in float64."""
    flossing_steps: Count = 300
    """Length of the sequence drawn for flossing, of which the window is the start."""
    epochs_before: CountOrNone = 500
    """Flossing epochs before the first training epoch (preflossing)."""
    epochs_during: CountOrNone = 500
    """Flossing epochs in each block during training (interflossing)."""
    every: Count = 100
    """Training epochs between blocks."""
    blocks: CountOrNone = 2
    """At most so many blocks."""


class SeedConfig(_Section):
    """Seeds, each for its own stream: equal seeds do not give equal numbers."""

    seed_network: Seed = 1
    """Seed of the weights."""
    seed_initial: Seed = 1
    """Seed of the initial states."""
    seed_input: Seed = 1
    """Seed of the input bits."""
    seed_basis: Seed = 1
    """Seed of the initial orthonormal basis."""


class SafetyConfig(_Section):
    """What is kept on disk, and what happens when numbers fail. No run that ends well without depends on it."""

    checkpoint_every: Count = 100
    """Epochs, of both kinds together, between two checkpoints; at most so many are run again after a crash."""
    snapshots_every: CountOrNone = 100
    """Training epochs between two snapshots of the parameters, which the report's slider shows; 0 for none."""
    halvings: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a run whose numbers cease to be finite goes on from its last good state with half the step size."""


class Config(_Section):
    """One run of the reference experiment; the defaults are the paper's released example."""

    network: NetworkConfig = NetworkConfig()
    task: TaskConfig = TaskConfig()
    training: TrainingConfig = TrainingConfig()
    flossing: FlossingConfig = FlossingConfig()
    seeds: SeedConfig = SeedConfig()
    safety: SafetyConfig = SafetyConfig()
    dtype: Literal["float32", "float64"] = "float32"
    """Floating precision of everything."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.flossing.k > self.network.units:
            raise ValueError(
                f"k must be an integer from 1 to {self.network.units} (the number of units), got k={self.flossing.k}"
            )
        expected = 3 if self.task.task == "spatial_xor" else 1
        if self.task.channels not in (None, expected):
            raise ValueError(f"channels must be {expected} for {self.task.task}, got channels={self.task.channels}")
        if self.flossing.window > self.flossing.flossing_steps:
            raise ValueError(
                f"window must be at most flossing_steps={self.flossing.flossing_steps}, "
                f"got window={self.flossing.window}"
            )
        if self.flossing.transient is not None and self.flossing.transient >= self.flossing.window:
            raise ValueError(
                f"transient must be less than window={self.flossing.window}, got transient={self.flossing.transient}"
            )
        return self

    def with_values(self, **values) -> "Config":
        """This configuration with some fields changed, each named as on the command line: `delay=20`, `k=10`.

        `seed` stands for all four seeds. Raises ValueError for a name that is no field, ValidationError for a value.
        """
        sections = self.model_dump()
        home = {field: name for name in sections if isinstance(sections[name], dict) for field in sections[name]}
        for field, value in values.items():
            if field == "seed":
                sections["seeds"] = dict.fromkeys(sections["seeds"], value)
            elif field in home:
                sections[home[field]][field] = value
            elif field in sections and field not in home.values():
                sections[field] = value
            else:
                legal = ", ".join(sorted([*home, "dtype", "seed"]))
                raise ValueError(f"{field} is not a field of the configuration; legal are {legal}")
        return type(self).model_validate(sections)

    def values(self) -> dict[str, Any]:
        """All that decides the result, by name as on the command line; safety does not."""
        sections = self.model_dump(exclude={"safety"})
        flat = {"dtype": sections.pop("dtype")}
        for section in sections.values():
            flat |= section
        return flat

    def differences(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """The fields in which another configuration leads to another result, with both values."""
        ours, theirs = self.values(), other.values()
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that name this configuration: equal for equal results, the same in later versions.

        Defaults are left out, so that a field added later changes no name.
        """
        said = self.model_dump(exclude={"safety"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def read_config(stored: Any) -> Config:
    """A configuration as a run directory holds it; ValueError, in one line, if it is none."""
    if not isinstance(stored, Mapping):
        raise ValueError(f"config must be a table of sections, got {type(stored).__name__}")
    try:
        return Config.model_validate(stored)
    except ValidationError as error:
        raise ValueError(explain_invalid(error)) from None


def explain_invalid(error: ValidationError) -> str:
    """pydantic's report as one line: each field, what is legal, and the value given."""
    told: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors(include_url=False):
        message, given = problem["msg"], problem["input"]
        if problem["type"] == "value_error":
            told[message.removeprefix("Value error, "), ""] = []
            continue
        # A field within its section; what may come after it names the alternatives that were tried.
        name = str((problem["loc"] or ("",))[:2][-1])
        if message.startswith("Input should "):
            legal, ending = message.removeprefix("Input should "), f", got {name}={given!r}"
            told.setdefault((f"{name} must ", ending), []).append(legal)
        else:
            told[f"{name}: {message}, got {given!r}", ""] = []
    return "; ".join(start + " or ".join(legal) + ending for (start, ending), legal in told.items())
