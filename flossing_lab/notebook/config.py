"""What the directory of a run from a notebook says about it. Imports no JAX."""

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from flossing_lab.runs.config import Condition, Count, RunConfig, SafetyConfig, Section

Setting = bool | int | float | str | None


class NotebookNetworkConfig(Section):
    """The network."""

    units: Count | None = None
    """Coordinates of the flossed state; None without flossing."""
    k: Count | None = None
    """Number of flossed exponents; None without flossing."""


class NotebookTaskConfig(Section):
    """The task."""

    task: str = "training"
    """The task in words."""


class NotebookTrainingConfig(Section):
    """Training."""

    epochs: Count = 1
    """Training epochs."""
    chunk: Count = 100
    """Largest number of epochs per chunk."""


class NotebookFlossingConfig(Section):
    """Gradient flossing."""

    condition: Condition = "none"
    """When to floss."""


class NotebookSeedsConfig(Section):
    """Seeds: the settings whose names begin with "seed"."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]


class SettingsConfig(Section):
    """What the author of the run says about it. A report distinguishes runs by these names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Setting] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]


class NotebookConfig(RunConfig):
    """One run from a notebook. Model, loss and data are code, which the directory does not hold."""

    network: NotebookNetworkConfig = NotebookNetworkConfig()
    task: NotebookTaskConfig = NotebookTaskConfig()
    training: NotebookTrainingConfig = NotebookTrainingConfig()
    flossing: NotebookFlossingConfig = NotebookFlossingConfig()
    seeds: NotebookSeedsConfig = NotebookSeedsConfig()
    settings: SettingsConfig = SettingsConfig()
    safety: SafetyConfig = SafetyConfig(snapshots_every=0)
    dtype: str = "float32"
    """Floating-point precision of the parameters."""
    experiment: Literal["notebook"] = "notebook"

    units_are: ClassVar[str] = ""
    driven_by: ClassVar[str] = "the inputs of flossing"

    @model_validator(mode="after")
    def _check_names(self) -> "NotebookConfig":
        sections = [value for _, value in self if isinstance(value, Section)]
        ours = {"dtype", "experiment", *(name for section in sections for name in type(section).model_fields)}
        if taken := [name for section in sections for name in section.model_extra or {} if name in ours]:
            found = "; condition follows from the schedule, leave it out" if "condition" in taken else ""
            raise ValueError(f"settings must not be named {', '.join(sorted(ours))}, got {', '.join(taken)}{found}")
        return self

    def values(self) -> dict[str, Any]:
        """The fields that distinguish runs. Units and k are left out, since runs without flossing have none."""
        return {name: value for name, value in super().values().items() if name not in self.network.model_dump()}

    def differences(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """The fields that affect the result and differ in `other`, with both values."""
        found = super().differences(other)
        if isinstance(other, NotebookConfig):
            ours, theirs = self.network.model_dump(), other.network.model_dump()
            found |= {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
        return found

    @property
    def name(self) -> str:
        """A short name that identifies the run."""
        return "notebook"

    @property
    def title(self) -> str:
        """The task in words."""
        return self.task.task

    @property
    def condition(self) -> Condition:
        """When the run flosses."""
        return self.flossing.condition

    @property
    def k(self) -> int:
        """Number of exponents in its spectra."""
        return self.network.k or 0

    @property
    def clip(self) -> Any:
        """No limit is known: the user's optimiser clips, or does not."""
        return None


CONFIG = NotebookConfig
