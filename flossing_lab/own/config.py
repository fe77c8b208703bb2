"""The configuration of a run with a task and a cell of your own, or any of the library's. Imports no JAX."""

import json
import os
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from flossing_lab.runs.config import (
    Condition,
    Count,
    CountOrZero,
    PositiveReal,
    Real,
    RunConfig,
    SafetyConfig,
    Section,
    Seed,
)
from flossing_lab.runs.source import is_file, with_digest, without_digest


class OwnNetworkConfig(Section):
    """The network: one cell and a linear readout of its output."""

    cell: str = "tanh"
    """tanh, leaky, gru, lstm, dale, lru, binary, lif; a class in a file, mine.py:MyCell, or in a package,
    lab.cells:MyCell; or a name of the entry points flossing.cells. It is called as MyCell(units, inputs, key=key)."""
    cell_options: str = "{}"
    """More arguments of the cell, as JSON: '{"gates": "open"}'."""
    units: Count = 64
    """Number of units N."""


class OwnTaskConfig(Section):
    """The task."""

    task: str = "TemporalXOR"
    """A task of flossing.tasks; a class in a file, mine.py:MyTask, or in a package, lab.tasks:MyTask; or a name of the
    entry points flossing.tasks."""
    task_options: str = "{}"
    """Arguments of the task, as JSON: '{"delay": 20}'."""


class OwnTrainingConfig(Section):
    """Training on the task with Adam."""

    epochs: Count = 3000
    """Training epochs, one fresh batch each."""
    batch: Count = 32
    """Sequences in a batch."""
    learning_rate: PositiveReal = 1e-3
    """Adam's learning rate."""
    clip: PositiveReal = 0.1
    """Largest norm of the gradient, over all arrays together."""
    chunk: Count = 100
    """Largest number of epochs per chunk."""


class OwnFlossingConfig(Section):
    """Gradient flossing: when, how long, and which exponents."""

    condition: Condition = "before"
    """When to floss. none: never; before: before training; during: after every EVERY training epochs;
    before_and_during: both; adaptive: before training, and again while flossing.gradient_reach is at most THRESHOLD."""
    loss: Literal["default", "exponents"] = "default"
    """The loss of flossing: that of flossing.floss, or the exponents alone, the loss of the paper."""
    k: Count | None = None
    """Number of exponents to floss, from the largest. Default: three quarters of UNITS."""
    target: Real = 0.0
    """Target value of the flossed exponents, per step."""
    window: Count | None = None
    """Steps over which exponents are measured. Default: the whole sequence."""
    preflossing: CountOrZero = 500
    """Flossing epochs before training."""
    interflossing: CountOrZero = 50
    """Flossing epochs in each later block."""
    every: Count = 100
    """Training epochs between two blocks, or between two decisions of the adaptive rule."""
    threshold: PositiveReal = 1e-3
    """adaptive: the reach below which a block follows."""
    flossing_rate: PositiveReal = 3e-3
    """Adam's learning rate for flossing."""
    flossing_clip: PositiveReal = 0.1
    """Largest norm of the gradient of flossing."""
    interval: Count | Literal["auto"] = "auto"
    """Reorthonormalisation interval in steps."""


class OwnSeedsConfig(Section):
    """Seeds."""

    seed_network: Seed = 1
    """Draws the network."""
    seed_data: Seed = 1
    """Draws batches, and the inputs of flossing."""
    seed_basis: Seed = 1
    """Draws the initial basis."""


class OwnSafetyConfig(SafetyConfig):
    """What to store on disk, and where own files are. These settings never change a successful run."""

    folder: str = ""
    """Folder of mine.py. Default: the current one."""


class OwnConfig(RunConfig):
    """One run with a task and a cell; names of files carry the digest of their content, mine.py:MyTask@0123456789ab."""

    network: OwnNetworkConfig = OwnNetworkConfig()
    task: OwnTaskConfig = OwnTaskConfig()
    training: OwnTrainingConfig = OwnTrainingConfig()
    flossing: OwnFlossingConfig = OwnFlossingConfig()
    seeds: OwnSeedsConfig = OwnSeedsConfig()
    safety: OwnSafetyConfig = OwnSafetyConfig()
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point precision."""
    experiment: Literal["own"] = "own"

    units_are: ClassVar[str] = ""
    driven_by: ClassVar[str] = "a sequence of the task"

    @field_validator("network", "task")
    @classmethod
    def _check_options(cls, section: Any) -> Any:
        for name, value in section.model_dump().items():
            if name.endswith("_options"):
                _read_options(name, value)
        return section

    @model_validator(mode="before")
    @classmethod
    def _find_sources(cls, values: Any) -> Any:
        """Complete the names of own files by the digest of their content, and note where they are."""
        if not isinstance(values, dict):
            return values
        sections = {name: dict(values.get(name) or {}) for name in ("network", "task", "safety")}
        for section, field in (("network", "cell_options"), ("task", "task_options")):
            if isinstance(given := sections[section].get(field), dict):  # a table of a sweep's file
                sections[section][field] = json.dumps(given)
        folder = sections["safety"].get("folder") or os.getcwd()
        for section, field in (("network", "cell"), ("task", "task")):
            given = sections[section].get(field)
            if isinstance(given, str) and is_file(given):
                sections[section][field] = with_digest(given, folder)
                sections["safety"]["folder"] = folder
        return values | {name: section for name, section in sections.items() if section}

    @property
    def name(self) -> str:
        """A short name that identifies the run."""
        parts = (self.task.task, self.network.cell)
        task, cell = (without_digest(part).rpartition(":")[2].rpartition(".")[2] for part in parts)
        return f"{task}-{cell}-{self.condition}-seed{self.seeds.seed_network}"

    @property
    def title(self) -> str:
        """The task in words."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.task_arguments.items())
        return f"{without_digest(self.task.task)}({options}), {without_digest(self.network.cell)} cell"

    @property
    def condition(self) -> Condition:
        """When the run flosses."""
        return self.flossing.condition

    @property
    def k(self) -> int:
        """Number of exponents in its spectra."""
        return max(1, 3 * self.network.units // 4) if self.flossing.k is None else self.flossing.k

    @property
    def clip(self) -> float:
        """Largest norm of the gradient."""
        return self.training.clip

    @property
    def task_arguments(self) -> dict[str, Any]:
        """The arguments of the task."""
        return _read_options("task_options", self.task.task_options)

    @property
    def cell_arguments(self) -> dict[str, Any]:
        """The arguments of the cell besides units, inputs and key."""
        return _read_options("cell_options", self.network.cell_options)


def _read_options(name: str, text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} must be JSON such as '{{\"delay\": 20}}', got {text!r}: {error}") from None
    if not isinstance(options, dict):
        raise ValueError(f"{name} must be a JSON object such as '{{\"delay\": 20}}', got {text!r}")
    return options


CONFIG = OwnConfig
