"""Beyond the paper: changes to the training of networks of 160 units."""

from typing import Any

from matplotlib.figure import Figure

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.drawing import accuracy_axes, legend_below, new_figure
from flossing_lab.paper.analysis.measures import accuracy_curves, groups, numbers
from flossing_lab.paper.analysis.verdicts import nine_of_ten, not_run, reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import slug
from flossing_lab.sweeps.spec import Spec

NAME = "larger"
IN_PAPER = False
TITLE = "Training larger networks"
CAPTION = (
    "Temporal XOR at lags d/2 and d, N = 160, at most 10,000 training epochs, adaptive flossing of all directions and "
    'early stopping as in the frontier. Each line is one network, its accuracy averaged over 100 epochs. "As networks '
    'of 80 units": Adam\'s learning rate 0.001 for training and for flossing, batches of 16. "Slower": 0.0003 for '
    "training, 0.001 for flossing. Larger batches have 64 or 256 sequences, 4 and 16 times the work per epoch. The "
    "adaptive rule's threshold is 0.001 with batches of 64 and the default, 0.00025, with batches of 256; in the "
    "latter case the learning rate also decays to 0 over the last 5000 epochs. Runs come from several machines, some "
    "partly from a GPU, so their seconds are not comparable."
)

LARGER = "slower, batches of 64"
GOAL = "slower, batches of 256, decay"
"""The change that is run on as many networks as the frontier has in its first setting."""
SLOWER: dict[str, Any] = {"learning_rate": 3e-4, "flossing_rate": 1e-3}
CHANGES: dict[str, dict[str, Any]] = {
    "as networks of 80 units": {},
    "slower": SLOWER,
    LARGER: {**SLOWER, "batch": 64, "threshold": 1e-3},
    GOAL: {**SLOWER, "batch": 256, "decay": 5000},
}
"""The changes, as labels and as fields of the configuration."""
TINY = {"batch": 6, "decay": 5}
"""Smaller values at the tiny scale."""
COLOURS = ("#6b6b6b", "#d9822b", "#d6336c", "#1c7ed6")
DELAYS = (60, 76)
"""Basic lags, d / 2: 0.75 N and 0.95 N."""
SEEDS = {LARGER: 6, GOAL: 10}
"""Number of networks for changes that are run only at the longer delay."""


def specs(scale: Scale) -> list[Spec]:
    """The frontier's runs of its largest networks that floss all directions, without and with each change."""
    return [spec for _, spec in _changed(scale)]


def _changed(scale: Scale) -> list[tuple[str, Spec]]:
    found = []
    for change in CHANGES:
        for setting in _settings(scale, change):
            spec, fields = schedules.spec_of(scale, setting, "whole"), CHANGES[change]
            fewer = {name: value for name, value in TINY.items() if scale == "tiny" and name in fields}
            delays = "_".join(str(2 * delay) for delay in setting.delays)
            name, base = f"{NAME}-{slug(change)}-{delays}", {**spec.base, **fields, **fewer}
            found.append((change, spec.model_copy(update={"name": name, "base": base})))
    return found


def _settings(scale: Scale, change: str) -> list[schedules.Setting]:
    first, *_, setting = schedules.settings(scale)
    if scale == "tiny":
        return [setting._replace(delays=setting.delays[-1:])]
    if change in SEEDS:
        return [setting._replace(delays=[DELAYS[1]], seeds=min(SEEDS[change], first.seeds))]
    return [setting._replace(delays=list(DELAYS))]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, with `change` and `load` = d / N; and `curves` of its accuracy."""
    rows, curves = [], []
    for change, spec in _changed(scale):
        size = {"change": change, "units": spec.base["units"]}
        rows += [{**size, "load": row["d"] / size["units"], **row} for row in groups(results, spec)]
        curves += [{**size, **curve} for curve in accuracy_curves(results, spec)]
    return {"groups": rows, "curves": curves}


def draw(data: Data) -> Figure:
    """Accuracy against the epoch, one panel per delay and one line per network."""
    delays = sorted({row["d"] for row in data["groups"]})
    columns = max(len(delays), 1)
    figure, (panels,) = new_figure(f"{TITLE}: temporal XOR, N = 160", 1, columns, size=(2.0 + 4.6 * columns, 4.2))
    colours = dict(zip(CHANGES, COLOURS, strict=True))
    for axes, d in zip(panels, delays, strict=False):
        for change, colour in colours.items():
            axes.plot([], [], color=colour, label=change)
        for curve in (curve for curve in data["curves"] if curve["d"] == d):
            axes.plot(numbers(curve["epoch"]), numbers(curve["accuracy"]), color=colours[curve["change"]], lw=1.2)
        load = next(row["load"] for row in data["groups"] if row["d"] == d)
        accuracy_axes(axes, f"d = {d}, {load:.2g} N", "training epoch")
        axes.set_xlim(0, None)
    legend_below(figure, panels[0])
    return figure


def table(data: Data) -> list[list[str]]:
    """The results of each group of networks."""
    rows = sorted(data["groups"], key=lambda row: row["d"])
    return [
        ["change", *schedules.HEAD],
        *([row["change"], *schedules.table_row({"schedule": "whole", **row})] for row in rows),
    ]


def claims(data: Data) -> list[Claim]:
    """Whether each change lets networks solve delays they did not solve without it, and whether the goal is met."""
    goal = (
        f"(Our goal.) With batches of {CHANGES[GOAL]['batch']} and a learning rate that decays to 0, adaptive flossing "
        "solves d = 0.95 N in nine of ten networks, N = 160."
    )
    reached = [row for row in data["groups"] if row["change"] == GOAL]
    return [
        _helps(
            data, "slower", "(Our question.) With a smaller learning rate, networks of 160 units solve longer lags."
        ),
        _helps(data, LARGER, "(Our question.) With batches of 64 as well, they solve longer lags still."),
        nine_of_ten(goal, reached[0]) if reached else not_run(goal),
    ]


def _helps(data: Data, change: str, claim: str) -> Claim:
    """Whether networks solve longer delays with this change than with the previous one."""
    before = list(CHANGES)[list(CHANGES).index(change) - 1]
    return reaches_further(claim, data["groups"], change, before, key="change", names={change: change, before: before})
