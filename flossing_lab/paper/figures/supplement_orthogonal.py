"""Supplement: orthogonal initial recurrent weights."""

from typing import Any

from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import accuracy_axes, count, legend_below, medians, new_figure
from flossing_lab.paper.analysis.measures import groups
from flossing_lab.paper.analysis.verdicts import reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import SIZES, spec
from flossing_lab.runs.config import Condition
from flossing_lab.runs.plotting import COLOURS, LABELS
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_orthogonal"
IN_PAPER = True
TITLE = "Orthogonal initial recurrent weights"
CAPTION = (
    "Temporal XOR: final accuracy, averaged over the last 100 epochs, against the longest lag d, for Gaussian (solid) "
    "and orthogonal (dashed) initial recurrent weights, without flossing and with flossing before and during training "
    "(k = 75). Both keep the reference's input scale, bias and gain. Dotted: orthogonal weights with inputs of scale "
    "0.1 instead of 1, which the paper does not have. Lines: median, dots: each network."
)
CONDITIONS: tuple[Condition, ...] = ("none", "before_and_during")
STARTS: dict[str, dict[str, Any]] = {
    "gaussian": {"recurrent": "gaussian"},
    "orthogonal": {"recurrent": "orthogonal"},
    "tuned": {"recurrent": "orthogonal", "input_scale": 0.1},
}
LINES = {"gaussian": "-", "orthogonal": "--", "tuned": ":"}
WORDS = {"gaussian": "Gaussian", "orthogonal": "orthogonal", "tuned": "orthogonal, inputs 0.1"}


def specs(scale: Scale) -> list[Spec]:
    """The temporal XOR from each initialisation; the Gaussian runs are shared with figure 4."""
    size = SIZES[scale]
    return [
        spec(f"{NAME}-{start}", size, {"task": "temporal_xor", **fields}, delay=size.orthogonal, condition=CONDITIONS)
        for start, fields in STARTS.items()
    ]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results; `kind` combines initialisation and condition."""
    rows = [(start, row) for start, each in zip(STARTS, specs(scale), strict=True) for row in groups(results, each)]
    return {"groups": [{"kind": f"{start} {row['condition']}", **row} for start, row in rows]}


def draw(data: Data) -> Figure:
    """Final accuracy against the longest lag for each initialisation."""
    rows = data["groups"]
    figure, grid = new_figure(f"{TITLE} ({count(rows)})", 1, 1, size=(7.2, 4.8))
    (axes,) = grid[0]
    for index, kind in enumerate(_names()):
        start, condition = kind.split()
        matching = [row for row in rows if row["kind"] == kind]
        style = {"colour": COLOURS[condition], "label": _names()[kind], "ls": LINES[start]}
        medians(axes, matching, "d", "final_accuracy", shift=4.0 * (index - 2.5), **style)
    accuracy_axes(axes, "Temporal XOR: final accuracy", "longest lag d (steps)")
    axes.set_xticks(sorted({row["d"] for row in rows}))
    legend_below(figure, axes, columns=2)
    return figure


def claims(data: Data) -> list[Claim]:
    """Claims that compare flossing with an orthogonal start."""
    rows, names = data["groups"], _names()
    pairs = {
        "Flossing extends the lag from an orthogonal start.": ("orthogonal before_and_during", "orthogonal none"),
        "A Gaussian start with flossing solves longer lags than an orthogonal start alone.": (
            "gaussian before_and_during",
            "orthogonal none",
        ),
        "(Our question.) A Gaussian start with flossing outdoes an orthogonal start with inputs of scale 0.1 alone.": (
            "gaussian before_and_during",
            "tuned none",
        ),
        "(Our question.) Flossing extends the lag from an orthogonal start with inputs of scale 0.1.": (
            "tuned before_and_during",
            "tuned none",
        ),
    }
    return [
        reaches_further(claim, rows, ours, theirs, key="kind", names=names) for claim, (ours, theirs) in pairs.items()
    ]


def _names() -> dict[str, str]:
    kinds = [(start, condition) for condition in CONDITIONS for start in STARTS]
    return {f"{start} {condition}": f"{WORDS[start]}: {LABELS[condition]}" for start, condition in kinds}
