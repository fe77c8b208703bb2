"""What every figure of the paper is: what it needs, what it takes from that, how it is drawn, what it says."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.runs.directory import RunDirectory
from flossing_lab.sweeps.spec import Spec

Scale = Literal["laptop", "paper", "tiny"]
"""laptop: half an hour on two cores; paper: 20 networks, all delays, 10,000 epochs; tiny: for tests."""

Verdict = Literal["holds", "holds in part", "does not hold", "undecided", "not run"]

Data = dict[str, Any]
"""What is drawn and judged: JSON, some tens of kB, curves of at most 200 points."""


class Calculation(NamedTuple):
    """A calculation that is not a run: a function of `calculations/` and its arguments.

    `name` is the file's name: letters, digits, `-`, `_` and `.`, unique for the arguments. `function` is the stable
    name of a function in `calculations/`, called as `f(**arguments)`, which returns arrays by name; `arguments` are
    JSON.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]


class Claim(NamedTuple):
    """One thing the paper says, and what is found of it: with its numbers, and the `n` networks it rests on; from the
    fewest to the most, where the numbers compared rest on more and less."""

    claim: str
    found: str
    n: int | str
    verdict: Verdict


@runtime_checkable
class Results(Protocol):
    """What is there to draw from."""

    def runs(self, spec: Spec) -> list[tuple[dict[str, Any], RunDirectory]]:
        """The finished runs of `spec`, each with the values of its axes; those that are missing are left out."""
        ...

    def calculation(self, calculation: Calculation) -> dict[str, np.ndarray] | None:
        """The arrays of a calculation, None if it has not been made with these arguments."""
        ...


@runtime_checkable
class FigureModule(Protocol):
    """A figure of the paper. Each is a module; `collect` reads results, and nothing after it does.

    `NAME` is the module's name and names its files, `TITLE` heads it, `CAPTION` says what is shown and for how many
    networks. Figures with `IN_PAPER = False` go beyond the paper: hundreds of runs of up to 10,000 epochs, made only
    when asked for.
    """

    NAME: str
    IN_PAPER: bool
    TITLE: str
    CAPTION: str

    def specs(self, scale: Scale) -> list[Spec]:
        """The runs it needs."""
        ...

    def calculations(self, scale: Scale) -> list[Calculation]:
        """The calculations it needs."""
        ...

    def collect(self, results: Results, scale: Scale) -> Data:
        """What it takes from those that are there."""
        ...

    def draw(self, data: Data) -> Figure:
        """The picture."""
        ...

    def claims(self, data: Data) -> list[Claim]:
        """What the paper says, and whether it is found here."""
        ...


@runtime_checkable
class TableModule(FigureModule, Protocol):
    """A figure that has its numbers in a table as well."""

    def table(self, data: Data) -> list[list[str]]:
        """The head of the table and its rows."""
        ...
