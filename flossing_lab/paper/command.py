"""`flossing paper`. Imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from flossing_lab.runs.command import OWN_DEFAULT


@dataclasses.dataclass(frozen=True)
class Paper:
    """Reproduce the paper, figure by figure: run what is missing, draw, and report which claims hold here.

    This writes a plot and a data file for each figure, and RESULTS.md. Repeating the command computes only what is
    missing. The exit code is 1 if a run failed.

    Scales: laptop, half an hour on two cores; ten, with ten networks and up to 10,000 epochs, some 10 core-hours;
    paper, with 20 networks, all delays and 10,000 epochs, for a cluster; tiny, a few minutes, to check that everything
    works. The figures above_n, capacity, frontier, gradient_snr, larger and limits go beyond the paper and take tens of
    core-hours, newton ten minutes.
    """

    scale: Literal["laptop", "ten", "paper", "tiny"] = "laptop"
    """How many networks, delays and epochs."""
    only: Annotated[str | None, OWN_DEFAULT] = None
    """Figures to compute, such as fig1,fig3; others are drawn from existing results. Default: all of the paper."""
    out: Path = Path("paper-runs")
    """Directory for plots, data, RESULTS.md, runs/ and calculations/."""
    workers: Annotated[int | None, OWN_DEFAULT] = None
    """Number of worker processes, one thread each. Default: one per usable core."""
    scheduler: str | None = None
    """Address of a running dask scheduler, such as tcp://127.0.0.1:8786, to use its workers instead of our own."""

    def __call__(self) -> int:
        from rich.console import Console

        from flossing_lab.paper.make import make_paper

        only = None if self.only is None else [name.strip() for name in self.only.split(",")]
        options = {"only": only, "workers": self.workers, "scheduler": self.scheduler}
        return 1 if make_paper(self.scale, self.out, console=Console(), **options) else 0
