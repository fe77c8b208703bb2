"""The interface of a figure: the runs it needs, the data it collects, its plot and its claims."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.runs.directory import RunDirectory
from flossing_lab.sweeps.spec import Spec

Scale = Literal["laptop", "ten", "paper", "tiny"]
"""laptop: half an hour on two cores; ten: ten networks, up to 10,000 epochs, a night; paper: 20 networks, all delays,
10,000 epochs; tiny: for the tests."""

Verdict = Literal["holds", "fails", "undecided at this n", "reached", "not reached", "not run", "not judged"]
"""A claim holds or fails at p < 0.05, else it is undecided; a goal is reached or not; a calculation holds or fails."""

Data = dict[str, Any]
"""The data of a figure, from which it is drawn and judged: JSON, tens of kB, at most 200 points a curve."""


class Calculation(NamedTuple):
    """A calculation that is not a run: a function of `calculations/` and its arguments.

    `name` names the file: letters, digits, `-`, `_` and `.`, one name for each set of arguments. `function` is the
    stable name of a function in `calculations/`. It is called as `f(**arguments)` and returns a dict of arrays.
    `arguments` must be JSON.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]


class Claim(NamedTuple):
    """A claim and its test: `found` gives the measured numbers, `n` the number of networks behind them (a range
    "fewest to most" if the numbers compared rest on different counts)."""

    claim: str
    found: str
    n: int | str
    verdict: Verdict


@runtime_checkable
class Results(Protocol):
    """The results available to a figure."""

    def runs(self, spec: Spec) -> list[tuple[dict[str, Any], RunDirectory]]:
        """The finished runs of `spec`, each with the values of its axes; missing runs are skipped."""
        ...

    def calculation(self, calculation: Calculation) -> dict[str, np.ndarray] | None:
        """The arrays of a calculation, or None if it has not been run with these arguments."""
        ...


@runtime_checkable
class FigureModule(Protocol):
    """A figure of the paper. Each is a module. Only `collect` reads results; drawing and claims use its data.

    `NAME` is the module's name and the stem of its files, `TITLE` its heading, `CAPTION` describes what is shown.
    Figures with `IN_PAPER = False` go beyond the paper: they need hundreds of runs of up to 10,000 epochs, and are
    made only on request.
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
        """Extract the figure's data from the available results."""
        ...

    def draw(self, data: Data) -> Figure:
        """Draw the figure."""
        ...

    def claims(self, data: Data) -> list[Claim]:
        """The claims, with measured numbers and verdicts."""
        ...


@runtime_checkable
class TableModule(FigureModule, Protocol):
    """A figure that also lists its numbers in a table."""

    def table(self, data: Data) -> list[list[str]]:
        """The table's header, then its rows."""
        ...
