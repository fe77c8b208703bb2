"""Supplement: run time."""

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import count, legend_below, medians, new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, short
from flossing_lab.paper.analysis.merge import RUN
from flossing_lab.paper.analysis.verdicts import networks, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.figures.supplement_k import specs as k_specs
from flossing_lab.reference.config import Config
from flossing_lab.runs.plotting import COLOURS, DARK
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_time"
IN_PAPER = True
TITLE = "Run time"
CAPTION = (
    "Milliseconds per epoch against the number k of flossed exponents (N = 80; a training epoch: 16 sequences of 300 "
    "steps; a flossing epoch: one sequence of 55 steps), measured in the runs of supplement_k. Each value is the "
    "median over the chunks of a run, without writing to disk. Lines: median, dots: each network. The runs shared a "
    "machine, with one core each, so these times compare with one another, not with those of an idle machine."
)
K = 75
"""The reference's number of flossed exponents."""
SHARE = 0.25
"""Flossing counts as cheap if it takes at most this share of a run's time."""


def specs(scale: Scale) -> list[Spec]:
    """The runs of supplement_k."""
    return k_specs(scale)


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups`, one for each k, with milliseconds per `training` and `flossing` epoch of each network, and the number
    of epochs of both kinds that a run makes if it does not stop early."""
    found: dict[int, dict] = {}
    for values, run in (pair for spec in specs(scale) for pair in results.runs(spec)):
        pace = run.info.get("seconds_per_epoch", {})
        if pace.keys() < {"training", "flossing"} or "resumed" in run.info:
            continue  # not timed (older version), or resumed
        assert isinstance(run.config, Config)
        plan, more = run.config.plan, run.config.flossing.blocks
        epochs = {"training": run.config.training.epochs, "flossing": plan.preflossing + more * plan.interflossing}
        shared = {"k": values["k"], **{f"{kind}_epochs": count for kind, count in epochs.items()}}
        group = found.setdefault(values["k"], {**shared, "seed": [], RUN: [], "training": [], "flossing": []})
        group["seed"].append(values["seed"])
        group[RUN].append(run.config.digest)
        for kind in ("training", "flossing"):
            group[kind].append(short(1e3 * pace[kind]))
    return {"groups": list(found.values())}


def draw(data: Data) -> Figure:
    """Time of a training and a flossing epoch against k."""
    rows = data["groups"]
    figure, grid = new_figure(f"{TITLE} ({count(rows)})", 1, 1, size=(6.4, 4.2))
    (axes,) = grid[0]
    medians(axes, rows, "k", "training", colour=DARK, label="training epoch", shift=-2.0)
    medians(axes, rows, "k", "flossing", colour=COLOURS["before_and_during"], label="flossing epoch", shift=2.0)
    panel(axes, "Time of one epoch, on one core", xlabel="flossed exponents k", ylabel="time (ms)")
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    return figure


def claims(data: Data) -> list[Claim]:
    """The claim about flossing's share of the run time, at the reference's k."""
    claim = "Flossing takes a small share of a run's time."
    row = next((row for row in data["groups"] if row["k"] == K), None)
    if row is None:
        return [not_run(claim)]
    training, flossing = (float(np.median(numbers(row[kind]))) for kind in ("training", "flossing"))
    share = flossing * row["flossing_epochs"]
    share /= share + training * row["training_epochs"]
    found = (
        f"At k = {K} a training epoch takes {training:.1f} ms and a flossing epoch {flossing:.1f} ms; "
        f"{row['flossing_epochs']} flossing and {row['training_epochs']} training epochs make flossing {share:.0%} of "
        f"the time, without compilation (criterion: at most {SHARE:.0%})."
    )
    return [Claim(claim, found, networks([row]), "holds" if share <= SHARE else "fails")]
