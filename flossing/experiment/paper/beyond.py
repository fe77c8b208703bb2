"""Beyond the paper: delays longer than the network is large, with more training than the frontier allows."""

import numpy as np
from matplotlib.figure import Figure

from flossing.experiment.figures import running_mean
from flossing.experiment.paper import frontier
from flossing.experiment.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing.experiment.paper.drawing import accuracy_axes, legend_below, new_figure
from flossing.experiment.paper.frontier import Place
from flossing.experiment.paper.judging import networks, not_run
from flossing.experiment.paper.measures import SMOOTH, SOLVED, groups, numbers
from flossing.experiment.spec import Spec

NAME = "beyond"
TITLE = "Delays at and above the number of units"

EPOCHS = 40_000
"""Training epochs, four times those of the frontier."""


def places(scale: Scale) -> list[Place]:
    """Sizes and basic lags, in the order in which they are run."""
    if scale == "tiny":
        return [Place(8, [4, 5], 1)]
    seeds = 3 if scale == "laptop" else 20
    return [Place(40, [20, 21, 22, 24, 26, 30], seeds), Place(80, [40, 42, 44, 48], seeds)]


def specs(scale: Scale) -> list[Spec]:
    """The frontier's schedule that flosses all directions, with more epochs."""
    found = []
    for place in places(scale):
        spec = frontier.spec_of(scale, place, "whole")
        longer = {} if scale == "tiny" else {"epochs": EPOCHS}
        found.append(spec.model_copy(update={"name": f"{NAME}-{place.units}", "base": {**spec.base, **longer}}))
    return found
