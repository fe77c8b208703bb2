"""Figure 3: flossing before training, on the delayed copy and the temporal XOR."""

from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import count, draw_final, draw_learning, legend_below, new_figure
from flossing_lab.paper.analysis.measures import by_task, of_task
from flossing_lab.paper.analysis.verdicts import learns_faster, reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import SIZES, STOPPING, TASKS, delays_spec
from flossing_lab.reference.config import TaskName
from flossing_lab.runs.config import Condition
from flossing_lab.sweeps.spec import Spec

NAME = "fig3"
IN_PAPER = True
TITLE = "Flossing before training"
CAPTION = (
    "Delayed copy (top) and temporal XOR (bottom), without flossing and with 500 flossing epochs (k = 75) before "
    "training. Left: accuracy on fresh sequences against the training epoch at one long lag, running mean over 25 "
    "epochs; median and quartiles over networks. Middle: the same against the seconds that flossing and training took "
    "on one core, without compilation, for networks that were timed. Right: final accuracy, averaged over the last 100 "
    "epochs, against the longest lag d (the temporal XOR combines the bits d/2 and d steps ago); line: median, dots: "
    "each network. " + STOPPING + " All networks start from the reference's Gaussian weights, input scale and bias; "
    "other starts were not tried here."
)
CONDITIONS: tuple[Condition, ...] = ("none", "before")
_TASKS: tuple[TaskName, ...] = ("copy", "temporal_xor")


def specs(scale: Scale) -> list[Spec]:
    """Both tasks at all delays, without and with flossing before training."""
    return [delays_spec(NAME, scale, task, CONDITIONS) for task in _TASKS]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, with `task`, and with curves at one delay."""
    return {"groups": by_task(results, specs(scale), SIZES[scale].hard)}


def draw(data: Data) -> Figure:
    """Two tasks: accuracy against the epoch and against time, and final accuracy against the longest lag."""
    figure, grid = new_figure(f"{TITLE} (k = 75, {count(data['groups'])})", 2, 3, size=(12.8, 6.8))
    for (*learning, final), task in zip(grid, _TASKS, strict=True):
        rows, with_curves = of_task(data["groups"], task)
        draw_learning(learning, with_curves, TASKS[task])
        draw_final(final, rows, CONDITIONS, f"{TASKS[task]}: final accuracy")
    legend_below(figure, grid[0, -1])
    return figure


def claims(data: Data) -> list[Claim]:
    """Claims about reach and speed on both tasks."""
    found = []
    for task in _TASKS:
        what, (rows, _) = TASKS[task].lower().replace("xor", "XOR"), of_task(data["groups"], task)
        found += [
            reaches_further(f"Flossing before training solves the {what} at longer lags.", rows, "before", "none"),
            learns_faster(f"Flossing before training speeds up learning of the {what}.", rows, "before", "none"),
        ]
    return found
