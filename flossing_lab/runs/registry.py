"""The experiments by name. To add one, write its package and add a line here, or, in a package of your own, an entry
point of the group `flossing.experiments` whose value is that package.

An experiment is a package with three modules: `config` defines `CONFIG`, its [`RunConfig`][]; `command` defines
`COMMAND`, the arguments and the action of `flossing train NAME`; `experiment` is an
[`ExperimentModule`][flossing_lab.runs.experiment.ExperimentModule]. The first two import no JAX.
"""

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from flossing_lab.runs.config import DEFAULT_EXPERIMENT, RunConfig, explain_invalid

EXPERIMENTS = {
    "reference": "flossing_lab.reference",
    "balance": "flossing_lab.balance",
    "own": "flossing_lab.own",
} | {entry.name: entry.value for entry in importlib.metadata.entry_points(group="flossing.experiments")}
"""The package of each experiment that `flossing train` runs."""
PACKAGES = EXPERIMENTS | {"notebook": "flossing_lab.notebook"}
"""The package of each experiment that a run directory may belong to."""


def config_class(experiment: Any) -> type[RunConfig]:
    """The configuration class of an experiment; ValueError for an unknown name."""
    if not isinstance(experiment, str) or experiment not in PACKAGES:
        legal = " or ".join(map(repr, EXPERIMENTS))
        raise ValueError(f"experiment must be {legal}, got experiment={experiment!r}")
    return importlib.import_module(f"{PACKAGES[experiment]}.config").CONFIG


def command_class(experiment: str) -> type:
    """The command of an experiment: a dataclass that tyro reads and that runs when called."""
    return importlib.import_module(f"{EXPERIMENTS[experiment]}.command").COMMAND


def read_config(stored: Any) -> RunConfig:
    """The configuration stored in a run directory; raises a one-line ValueError if it is illegal."""
    if not isinstance(stored, Mapping):
        raise ValueError(f"config must be a table of sections, got {type(stored).__name__}")
    try:
        return config_class(stored.get("experiment", DEFAULT_EXPERIMENT)).model_validate(stored)
    except ValidationError as error:
        raise ValueError(explain_invalid(error)) from None
