"""Beyond the paper: what keeps a network from a horizon near its size, one change at a time."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flossing.experiment.paper import frontier
from flossing.experiment.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing.experiment.paper.drawing import GREY, new_figure, panel
from flossing.experiment.paper.judging import networks, not_run
from flossing.experiment.paper.measures import SOLVED, Group, groups, numbers
from flossing.experiment.spec import Spec

NAME = "limits"
TITLE = "What limits the horizon"
CAPTION = (
    "Temporal XOR at d = 76, N = 80, adaptive flossing, 10,000 training epochs, with one change at a time. Left: "
    "accuracy at the end, the mean over the last 100 epochs. Right: the first epoch at which the running mean of the "
    "accuracy over 25 epochs is 0.95, at the right border for networks that do not get there. Dots: each network; bar: "
    "the median. The learning rate is that of training and of flossing."
)

AS_IS = "as it is"
CHANGES: dict[str, dict[str, Any]] = {
    AS_IS: {},
    "clip 0.3 (was 0.03)": {"clip": 0.3},
    "batch 64 (was 16)": {"batch": 64},
    "20,000 epochs (was 10,000)": {"epochs": 20_000},
    "learning rate 0.0003 (was 0.001)": {"learning_rate": 3e-4},
    "learning rate 0.003": {"learning_rate": 3e-3},
    "share 0.01 (was 0.001)": {"share": 1e-2},
    "window d (was 2 d)": {"adaptive_window": 76},
    "k = 40 (was 75)": {"k": 40},
}
"""What is changed, in words and as fields of the configuration."""


_BORDER = 20_500.0  # where networks are drawn that do not solve their task


def specs(scale: Scale) -> list[Spec]:
    """The frontier's adaptive runs at its first place, and the same with each change."""
    place = frontier.places(scale)[0]
    changes = CHANGES if scale != "tiny" else dict(list(CHANGES.items())[:2])
    found = []
    for number, fields in enumerate(changes.values()):
        base = frontier.spec_of(scale, place._replace(seeds=min(3, place.seeds)), "adaptive")
        found.append(base.model_copy(update={"name": f"{NAME}-{number}", "base": {**base.base, **fields}}))
    return found


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of what each network reached, with the `change`."""
    rows = []
    for change, spec in zip(CHANGES, specs(scale), strict=False):
        rows += [{"change": change, **row} for row in groups(results, spec)]
    return {"groups": rows}


def draw(data: Data) -> Figure:
    """Final accuracy and epochs to accuracy 0.95, a line for each change."""
    rows = data["groups"]
    figure, ((final, speed),) = new_figure(f"{TITLE}: temporal XOR, d = 0.95 N, N = 80", 1, 2, size=(11.5, 4.6))
    for place, row in enumerate(rows):
        colour = "#222222" if row["change"] == AS_IS else frontier.COLOURS["adaptive"]
        for axes, name, most in ((final, "final_accuracy", 1.0), (speed, "epochs_to_solve", _BORDER)):
            each = np.minimum(numbers(row[name]), most)
            axes.scatter(each, np.full(len(each), place), s=22, color=colour, alpha=0.7, lw=0)
            axes.plot([np.median(each)], [place], marker="|", ms=15, mew=2, color=colour)
    panel(final, "Accuracy at the end", xlabel="accuracy", xlim=(0.45, 1.01))
    panel(speed, "Epochs to accuracy 0.95", xlabel="training epoch", xlim=(0, 1.03 * _BORDER))
    final.axvline(SOLVED, color=GREY, lw=0.9, ls="--", zorder=0)
    for axes in (final, speed):
        axes.set_yticks(range(len(rows)), [row["change"] for row in rows] if axes is final else [])
        axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def claims(data: Data) -> list[Claim]:
    """Whether any one change makes a difference."""
    rows: list[Group] = data["groups"]
    claim = "(Our question.) One change alone brings all networks to d = 0.95 N, N = 80."
    if not rows or rows[0]["change"] != AS_IS:
        return [not_run(claim)]
    told = [f"{row['change']}: {np.median(numbers(row['final_accuracy'])):.3f}" for row in rows]
    held = [row["change"] for row in rows if (numbers(row["final_accuracy"]) >= SOLVED).all()]
    found = f"Median of the final accuracy: {'; '.join(told)}."
    return [Claim(claim, found, networks(rows), "holds" if held else "does not hold")]
