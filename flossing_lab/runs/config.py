"""What the configurations of all experiments are made of: kinds of value, sections, and the methods they share.

This room imports no JAX, so that `--help` answers at once.
"""

import hashlib
import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]
Real = Annotated[float, Field(allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RealOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

Kind = TypeVar("Kind", bound="RunConfig")

FIRST = "reference"
"""The experiment of a configuration that names none."""


class Section(BaseModel):
    """Fields that belong together; frozen, and nothing else is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


class SafetyConfig(Section):
    """What is kept on disk, and what happens when numbers fail. No run that ends well without depends on it."""

    checkpoint_every: Count = 100
    """Epochs, of both kinds together, between two checkpoints; at most so many are run again after a crash."""
    snapshots_every: CountOrNone = 100
    """Training epochs between two snapshots of the parameters, which the report's slider shows; 0 for none."""
    halvings: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a run whose numbers cease to be finite goes on from its last good state with half the step size."""


class RunConfig(Section):
    """One run of an experiment: sections of fields, whose names are all different; `dtype`; which `experiment` it is.

    What else the program asks of a configuration is declared here, and for each experiment to say.
    """

    if TYPE_CHECKING:  # every experiment declares these, with types of its own
        network: Any = ...
        task: Any = ...
        training: Any = ...
        seeds: Any = ...
        safety: Any = ...
        dtype: Any = ...
        experiment: Any = ...

    units_are: ClassVar[str]
    """The kind of its units, in a word."""
    driven_by: ClassVar[str]
    """What drives the network whose exponents are measured, in words."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A name that tells runs apart at a glance; the default name of a directory."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The task in words."""

    @property
    @abstractmethod
    def condition(self) -> str:
        """When it flosses: `"none"` for never."""

    @property
    @abstractmethod
    def k(self) -> int:
        """How many exponents its spectra hold."""

    @property
    @abstractmethod
    def clip(self) -> float | None:
        """Largest norm of each array's gradient, None for any."""

    def with_values(self: Kind, **values: Any) -> Kind:
        """This configuration with some fields changed, each named as on the command line: `delay=20`, `k=10`.

        `seed` stands for all seeds. Raises ValueError for a name that is no field, ValidationError for a value.
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
        sections = self.model_dump(exclude={"safety", "experiment"})
        flat = {"dtype": sections.pop("dtype")}
        for section in sections.values():
            flat |= section
        return flat

    def differences(self, other: "RunConfig") -> dict[str, tuple[Any, Any]]:
        """The fields in which another configuration leads to another result, with both values."""
        ours, theirs = self.values(), other.values()
        if type(self) is not type(other):
            ours, theirs = self.model_dump(include={"experiment"}), other.model_dump(include={"experiment"})
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that name this configuration: equal for equal results, the same in later versions.

        Defaults are left out, so that a field added later changes no name; and so is the first experiment there was.
        """
        said = self._said()
        said |= {name: kind for name, kind in self.model_dump(include={"experiment"}).items() if kind != FIRST}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def _said(self) -> dict[str, Any]:
        return self.model_dump(exclude={"safety", "experiment"}, exclude_defaults=True)


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
