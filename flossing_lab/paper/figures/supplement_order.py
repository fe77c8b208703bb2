"""Supplement: the XOR of four bits."""

from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import count, draw_final, draw_learning, legend_below, new_figure
from flossing_lab.paper.analysis.measures import by_task, of_task
from flossing_lab.paper.analysis.verdicts import learns_faster, reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import SIZES, STOPPING, spec
from flossing_lab.runs.config import Condition
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_order"
IN_PAPER = True
TITLE = "The XOR of four bits"
CAPTION = (
    "Temporal XOR of four bits, d/4, d/2, 3d/4 and d steps ago (task -2 of the released code; the paper shows the XOR "
    "of two). No flossing, 500 flossing epochs (k = 75) before training, and the same with two more blocks of 500 "
    "during it. Left: accuracy on fresh sequences against the training epoch, running mean over 25 epochs; median and "
    "quartiles over networks. Middle: the same against the seconds that flossing and training took on one core, "
    "without compilation, for networks that were timed. Right: final accuracy, averaged over the last 100 "
    "epochs, against the longest lag d; line: median, dots: each network. " + STOPPING
)
CONDITIONS: tuple[Condition, ...] = ("none", "before", "before_and_during")


def specs(scale: Scale) -> list[Spec]:
    """One task at a few delays, under three conditions."""
    size = SIZES[scale]
    return [spec(NAME, size, {"task": "temporal_xor", "order": 2}, delay=size.four_bits, condition=CONDITIONS)]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, with curves at one delay."""
    return {"groups": by_task(results, specs(scale), hard={"temporal_xor": SIZES[scale].four_bits[0]})}


def draw(data: Data) -> Figure:
    """Accuracy against the epoch and against time, and final accuracy against the longest lag."""
    rows, with_curves = of_task(data["groups"], "temporal_xor")
    figure, grid = new_figure(f"{TITLE} (k = 75, {count(rows)})", 1, 3, size=(12.8, 3.7))
    *learning, final = grid[0]
    draw_learning(learning, with_curves, "Accuracy")
    draw_final(final, rows, CONDITIONS, "Final accuracy")
    legend_below(figure, final)
    return figure


def claims(data: Data) -> list[Claim]:
    """Claims about reach and speed."""
    rows, kinds = data["groups"], ("before_and_during", "none")
    ours = "(Our question.) Flossing before and during training"
    return [
        reaches_further(f"{ours} solves the XOR of four bits at longer lags.", rows, *kinds),
        learns_faster(f"{ours} speeds up learning of the XOR of four bits.", rows, *kinds),
    ]
