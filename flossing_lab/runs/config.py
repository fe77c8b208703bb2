"""The building blocks of every experiment's configuration: value types, sections, and shared methods.

This module imports no JAX, so `--help` responds immediately.
"""

import difflib
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Real = Annotated[float, Field(allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RealOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Condition = Literal["none", "before", "during", "before_and_during", "adaptive"]

Kind = TypeVar("Kind", bound="RunConfig")

DEFAULT_EXPERIMENT = "reference"
"""The experiment of a configuration without the field `experiment`."""


class Section(BaseModel):
    """A group of related fields. It is frozen and rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


class SafetyConfig(Section):
    """What to store on disk, and what to do when training diverges. These settings never change a successful run."""

    checkpoint_every: Count = 100
    """Epochs between checkpoints, training and flossing together. A crash loses at most this many and one chunk."""
    snapshots_every: CountOrZero = 100
    """Training epochs between snapshots of the parameters, which the report's slider shows; 0 for none."""
    halvings: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a run that diverges may continue from its last good state with half the learning rate."""


class RunConfig(Section):
    """One run of an experiment: sections of fields with unique names, `dtype`, and the name of the `experiment`.

    Each experiment implements the properties declared here, on which the rest of the program relies.
    """

    if TYPE_CHECKING:  # every experiment declares these, with its own types
        network: Any = ...
        task: Any = ...
        training: Any = ...
        seeds: Any = ...
        safety: Any = ...
        dtype: Any = ...
        experiment: Any = ...

    argument_notes: ClassVar[Mapping[str, str]] = {}
    """What `--help` adds to the description of a field."""
    units_are: ClassVar[str]
    """The kind of units, in one word."""
    driven_by: ClassVar[str]
    """The input that drives the network while its exponents are measured, in words."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name that identifies the run; the default directory name."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The task in words."""

    @property
    @abstractmethod
    def condition(self) -> str:
        """When the run flosses; `"none"` for never."""

    @property
    @abstractmethod
    def k(self) -> int:
        """Number of exponents in its spectra."""

    @property
    @abstractmethod
    def clip(self) -> float | None:
        """Largest norm of each array's gradient; None for no limit."""

    def with_values(self: Kind, **values: Any) -> Kind:
        """This configuration with some fields changed, each named as on the command line: `delay=20`, `k=10`.

        `seed` stands for all seeds. Raises ValueError for an unknown field, ValidationError for an illegal value.
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
        """All fields that affect the result, named as on the command line; the safety fields do not."""
        sections = self.model_dump(exclude={"safety", "experiment"})
        flat = {"dtype": sections.pop("dtype")}
        for section in sections.values():
            flat |= section
        return flat

    @property
    def keeps_its_length(self) -> str | None:
        """Why a run with these settings cannot be lengthened, in words; None if it can."""
        return None

    def differences(self, other: "RunConfig") -> dict[str, tuple[Any, Any]]:
        """The fields that affect the result and differ in `other`, with both values."""
        ours, theirs = self.values(), other.values()
        if type(self) is not type(other):
            ours, theirs = self.model_dump(include={"experiment"}), other.model_dump(include={"experiment"})
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that identify this configuration: equal for equal results, stable across versions.

        Defaults do not enter the digest, so a field added later changes no digest. Nor does the name of the first
        experiment.
        """
        stated = self._non_defaults()
        stated |= {
            name: kind for name, kind in self.model_dump(include={"experiment"}).items() if kind != DEFAULT_EXPERIMENT
        }
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]

    def _non_defaults(self) -> dict[str, Any]:
        return self.model_dump(exclude={"safety", "experiment"}, exclude_defaults=True)


def did_you_mean(word: str, legal: Iterable[str]) -> str | None:
    """The question `did you mean ...?`, if a legal word is close."""
    close = difflib.get_close_matches(word, [*legal], n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else None


def explain_invalid(error: ValidationError) -> str:
    """pydantic's report as one line: each field, what is legal, and the value given."""
    messages: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors(include_url=False):
        message, given = problem["msg"], problem["input"]
        if problem["type"] == "value_error":
            messages[message.removeprefix("Value error, "), ""] = []
            continue
        # The field within its section. Further entries of `loc` name the alternatives that pydantic tried.
        name = str((problem["loc"] or ("",))[:2][-1])
        if message.startswith("Input should "):
            legal, ending = message.removeprefix("Input should "), f", got {name}={given!r}"
            messages.setdefault((f"{name} must ", ending), []).append(legal)
        else:
            messages[f"{name}: {message}, got {given!r}", ""] = []
    return "; ".join(start + " or ".join(legal) + ending for (start, ending), legal in messages.items())
