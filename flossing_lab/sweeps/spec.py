"""A sweep's specification: expands a TOML file into configurations, all validated before the first run starts.

    [base]                         # fields of the configuration, as on the command line; `seed` is all seeds
    epochs = 1000

    [[axes]]                       # each table is one axis; its fields vary together
    delay = [10, 20, 40]
    window = [30, 55, 110]

    [[axes]]                       # several axes multiply
    condition = ["none", "before_and_during"]

`experiment`, legal only in [base], selects another experiment, such as "balance" or "own", with its own fields. The
optional top-level key `name` names the sweep; it defaults to the name of the file. This module imports no JAX.
"""

import itertools
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from flossing_lab.runs.config import DEFAULT_EXPERIMENT, RunConfig, did_you_mean, explain_invalid
from flossing_lab.runs.registry import EXPERIMENTS, config_class
from flossing_lab.runs.toml_file import one_line, read_toml

MOST_POINTS = 100_000
"""A specification with more points than this is rejected as a mistake."""


class Point(NamedTuple):
    """One run of a sweep: the values of the axes' fields, and the whole configuration."""

    values: dict[str, Any]
    config: RunConfig


class Spec(BaseModel):
    """A sweep: what all runs share, and the axes along which they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    base: dict[str, Any] = {}
    axes: list[dict[str, list[Any]]]

    def points(self) -> list[Point]:
        """All runs, the last axis varying fastest."""
        steps = [[dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)] for axis in self.axes]
        return [_point(self.base, combination) for combination in itertools.product(*steps)]

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch("[A-Za-z0-9_-]{1,100}", name):
            raise ValueError(f"name (by default the file's) must be 1 to 100 letters, digits, - and _, got {name!r}")
        return name

    @field_validator("axes", mode="before")
    @classmethod
    def _check_axes(cls, axes: Any) -> Any:
        if not isinstance(axes, list) or not axes or not all(isinstance(axis, dict) and axis for axis in axes):
            raise ValueError(f"axes must be tables of fields, each headed [[axes]], got axes={axes!r}")
        for axis in axes:
            for field, values in axis.items():
                if not isinstance(values, list) or not values:
                    raise ValueError(f"{field} must be a list of at least one value, got {field}={values!r}")
            if len({len(values) for values in axis.values()}) > 1:
                listed = ", ".join(f"{len(values)} of {field}" for field, values in axis.items())
                raise ValueError(
                    f"the fields of one axis vary together and must have equally many values, got {listed}"
                )
        return axes

    @model_validator(mode="after")
    def _check(self) -> "Spec":
        if any("experiment" in axis for axis in self.axes):
            raise ValueError("experiment must be one name, in base: the runs of a sweep are of one experiment")
        fields = [*self.base, *(field for axis in self.axes for field in axis)]
        known = _legal_fields(self.base)
        for field in fields:
            if field not in known:
                raise ValueError(f"{field} is not a field of the configuration; {_advice(field, self.base, known)}")
            if fields.count(field) > 1:
                raise ValueError(f"{field} must be given once, in base or in one axis, got {fields.count(field)} times")
        count = math.prod(len(values) for axis in self.axes for values in list(axis.values())[:1])
        if count > MOST_POINTS:
            raise ValueError(f"axes must make at most {MOST_POINTS} points, got {count}")
        seen: dict[str, Point] = {}
        for point in self.points():
            same = seen.setdefault(point.config.digest, point)
            if same is not point:
                raise ValueError(
                    f"points must be runs that differ, got {describe(same.values)} and {describe(point.values)}"
                )
        return self


def read_spec(path: Path | str) -> Spec:
    """Read a specification from a TOML file; raises a one-line ValueError if anything is wrong with it."""
    try:
        content = read_toml(Path(path), "specification")
        unknown = [key for key in content if key not in Spec.model_fields]
        if unknown:
            raise ValueError(f"{unknown[0]} is not a key of a specification; legal are {', '.join(Spec.model_fields)}")
        return Spec.model_validate({"name": Path(path).stem, "axes": None} | content)
    except ValidationError as error:
        raise ValueError(one_line(f"{path}: {explain_invalid(error)}")) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(one_line(f"{path}: {error}")) from None


def describe(values: Mapping[str, Any]) -> str:
    """The values of a point in one line."""
    return ", ".join(f"{field}={value}" for field, value in values.items())


def _point(base: Mapping[str, Any], combination: tuple[dict[str, Any], ...]) -> Point:
    values = {field: value for step in combination for field, value in step.items()}
    given = {**base, **values}
    # Apply `seed` first, so that a value for a single seed overrides it.
    given = {"seed": given.pop("seed"), **given} if "seed" in given else given
    try:
        return Point(values, _plain_config(given).with_values(**given))
    except ValidationError as error:
        is_own = any(isinstance(value, str) and ".py:" in value for value in given.values())
        hint = '; for classes of your own, put experiment = "own" into [base]' if is_own else ""
        raise ValueError(f"at {describe(values)}: {explain_invalid(error)}{hint}") from None


def _plain_config(given: Mapping[str, Any]) -> RunConfig:
    return config_class(given.get("experiment", DEFAULT_EXPERIMENT))()


def _legal_fields(base: Mapping[str, Any]) -> set[str]:
    sections = [section for section in _plain_config(base).model_dump().values() if isinstance(section, dict)]
    return {"seed", "dtype", "experiment", *(field for section in sections for field in section)}


def _advice(field: str, base: Mapping[str, Any], known: Collection[str]) -> str:
    """What to write instead of an unknown field: a name like it, the experiment that has it, or all legal names."""
    if advice := did_you_mean(field, known):
        return advice
    for experiment in [] if "experiment" in base else EXPERIMENTS:
        if field in _legal_fields({"experiment": experiment}):
            return f'it is one of the experiment {experiment}: put experiment = "{experiment}" into [base]'
    return f"legal are {', '.join(sorted(known))}"
