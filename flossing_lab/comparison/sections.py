"""The sections of a protocol: sizes, tasks, networks and arms. Imports no JAX."""

from typing import Any, Literal

from pydantic import Field

from flossing_lab.runs.config import Count, CountOrZero, PositiveReal, Real, Section, Share


class TrialSettings(Section):
    """What all runs share."""

    units: Count = 64
    """Units of a network."""
    share: Share = 0.75
    """Flossed exponents, as a share of the units."""
    batch: Count = 32
    """Sequences in a batch."""
    test: Count = 512
    """Test sequences, where a task has no test set."""
    seed: Count = 1
    """Draws the settings."""
    again: CountOrZero = 10
    """Seeds with which the best draw of each arm runs again."""


class TrialTask(Section):
    """A task of `flossing.tasks`, or one of your own."""

    task: str
    """Its class; of your own, mine.py:MyTask, in a file beside the protocol."""
    title: str
    """In words."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its arguments."""
    measure: Literal["loss", "accuracy", "valid_time"]
    """What is tested: a loss, where less is better, an accuracy, or for how many steps a forecast is right."""
    trivial: Real
    """The value without memory."""
    solved: Real
    """The value at which the task counts as solved."""
    epochs: Count
    """Training epochs of an arm that flosses before training."""
    stop: PositiveReal | None = None
    """Training ends once the mean accuracy of 50 epochs is above it."""
    seconds: PositiveReal | None = None
    """What a run may cost, flossing and all: each network trains for as many epochs as that allows."""
    settings_of: str | None = None
    """Another task, a shorter one: no draws of its own, only the best draws of that task, each with `again` seeds, if
    they solve that task with at least one of theirs."""


class TrialNetwork(Section):
    """A kind of network."""

    cell: str
    """tanh, leaky, gru, lstm, dale, lru, binary or lif; torch, identity, orthogonal or oscillators, of the opponents;
    of your own, mine.py:MyCell, in a file beside the protocol."""
    penalty: Literal["orthogonality", "vanishing", "isometry"] | None = None
    """A term of the loss of training, times the drawn setting `weight`."""
    horizon: Count | None = None
    """Choose gain and input scale by `calibrate` for this horizon, instead of drawing them."""
    arms: tuple[str, ...] | None = None
    """The arms of this network; all by default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its arguments that do not vary."""
    draws: CountOrZero = 0
    """How many settings are drawn; without draws, the network is fixed, and runs with seeds alone."""
    vary: tuple[str, ...] = ()
    """The settings that are drawn; their ranges are in [draws], or in [ranges] of this network."""
    ranges: dict[str, Any] = Field(default_factory=dict)
    """Ranges that differ from those in [draws]."""


class TrialArm(Section):
    """How networks are flossed, or kept near orthogonal; by default neither."""

    before: CountOrZero = 0
    """Flossing epochs before training."""
    loss: Literal["default", "exponents", "memory"] = "default"
    """The loss of flossing."""
    rate: PositiveReal = 3e-3
    """Its learning rate."""
    clip: PositiveReal = 0.1
    """Its largest norm of the gradient."""
    threshold: PositiveReal | None = None
    """Adaptive flossing: a block follows wherever the reach of the gradient is at most this. It counts as cost: the run
    ends once all its epochs cost what they do in other arms."""
    block: Count = 50
    """Flossing epochs of such a block."""
    every: Count = 100
    """Training epochs between two measurements of the reach."""
    term: PositiveReal | None = None
    """The weight of a flossing loss as a term of the loss of training."""
    term_loss: Literal["default", "exponents", "memory"] = "exponents"
    """That loss."""
    term_every: Count = 5
    """Period of the term, in training epochs."""
    orthogonality: PositiveReal | None = None
    """The weight of ||J'J - I||^2 / N as a term of the loss of training, for cells with recurrent weights J. Its time,
    too short to be measured, is not counted."""
    epochs: Count | None = None
    """Training epochs, if not those of the task; for fixed networks."""

    @property
    def flosses(self) -> bool:
        """Whether there is any flossing."""
        return bool(self.before) or self.threshold is not None or self.term is not None

    def recorded(self) -> dict[str, Any]:
        """The settings as a run records them: those of adaptive flossing and of a term only if there is any."""
        adaptive = {"threshold", "block", "every"} if self.threshold is None else set()
        term = {"term", "term_loss", "term_every"} if self.term is None else set()
        orthogonality = {"orthogonality"} if self.orthogonality is None else set()
        return self.model_dump(exclude={"epochs"} | adaptive | term | orthogonality)
