"""Beyond the paper: delays of N steps and more, with longer training than in the frontier."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.drawing import GREY, accuracy_axes, new_figure, panel
from flossing_lab.paper.analysis.measures import SOLVED, Group, accuracy_curves, groups, numbers
from flossing_lab.paper.analysis.verdicts import UNDECIDED, networks, not_run, reaches_further
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import NETWORKS, slug
from flossing_lab.paper.schedules import Setting
from flossing_lab.sweeps.spec import Spec

NAME = "above_n"
IN_PAPER = False
TITLE = "Delays of N steps and more"
EPOCHS = 40_000
CAPTION = (
    f"Temporal XOR at lags d/2 and d, with d at least N. Training lasts at most {EPOCHS:,} epochs, four times as many "
    "as in the frontier, or 10,000 as there; the adaptive flossing of all directions and the early stopping are those "
    "of the frontier. The learning rate is constant, or decays linearly to 0 in the second half of the epochs. Left: "
    "accuracy against the epoch, running mean over 100 epochs; one line per network. Middle: final accuracy against "
    "d / N. Right: first epoch at which the running mean of the accuracy over 25 epochs reaches 0.95; networks that "
    "do not reach it are left out. Several combinations were run on a single network (see the table)."
)

CONSTANT, DECAY_40K, DECAY_10K = "40,000 epochs", "40,000 epochs, falling", "10,000 epochs, falling"
TRAINED: dict[str, dict[str, Any]] = {
    CONSTANT: {"epochs": EPOCHS},
    DECAY_40K: {"epochs": EPOCHS, "decay": EPOCHS // 2},
    DECAY_10K: {"decay": 5_000},
}
"""Training variants: the number of epochs and the learning rate, as a label and as fields of the configuration."""
TINY: dict[str, dict[str, Any]] = {CONSTANT: {}, DECAY_40K: {"decay": 15}, DECAY_10K: {"decay": 5}}
_LINES = {CONSTANT: ":", DECAY_40K: "-", DECAY_10K: "--"}
_MARKERS = {CONSTANT: "o", DECAY_40K: "^", DECAY_10K: "s"}


def settings(scale: Scale) -> list[Setting]:
    """Sizes and basic lags, in running order."""
    if scale == "tiny":
        return [Setting(8, [4, 5], 1)]
    seeds = NETWORKS[scale]
    return [Setting(40, [20, 21, 22, 24, 26, 30], seeds), Setting(80, [40, 42, 44, 48], seeds)]


def specs(scale: Scale) -> list[Spec]:
    """The frontier's schedule that flosses all directions, with more epochs, a decaying learning rate, or both."""
    return [spec for *_, spec in _trained(scale)]


def _trained(scale: Scale) -> list[tuple[str, Setting, Spec]]:
    found = []
    for name, fields in (TINY if scale == "tiny" else TRAINED).items():
        for setting in settings(scale):
            # With the frontier's number of epochs, only the first two delays are tried.
            chosen = setting._replace(delays=setting.delays[:2]) if name == DECAY_10K else setting
            spec = schedules.spec_of(scale, chosen, "whole")
            change = {"name": f"{NAME}-{setting.units}-{slug(name)}", "base": {**spec.base, **fields}}
            found.append((name, setting, spec.model_copy(update=change)))
    return found


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, with its variant `trained`, `units` and `load` = d / N; and `curves`, the
    accuracy of each network."""
    rows, curves = [], []
    for trained, setting, spec in _trained(scale):
        size = {"trained": trained, "units": setting.units}
        rows += [{**size, "load": row["d"] / setting.units, **row} for row in groups(results, spec)]
        curves += [{**size, **curve} for curve in accuracy_curves(results, spec)]
    return {"groups": rows, "curves": curves}


def draw(data: Data) -> Figure:
    """One row per network size: accuracy against the epoch, final accuracy, and epochs to accuracy 0.95."""
    rows, curves = data["groups"], data["curves"]
    sizes = sorted({row["units"] for row in rows})
    figure, grid = new_figure(f"{TITLE}: temporal XOR", max(len(sizes), 1), 3, size=(13.0, 3.6 * max(len(sizes), 1)))
    for (course, final, speed), units in zip(grid, sizes, strict=False):
        matching = [row for row in rows if row["units"] == units]
        shades = _shades(sorted({row["d"] for row in matching}))
        for curve in (curve for curve in curves if curve["units"] == units):
            line = _LINES[curve["trained"]]
            course.plot(numbers(curve["epoch"]), numbers(curve["accuracy"]), line, color=shades[curve["d"]], lw=1.2)
        for row in matching:
            for axes, name in ((final, "final_accuracy"), (speed, "epochs_to_solve")):
                _each(axes, row, numbers(row[name]), shades[row["d"]])
        accuracy_axes(course, f"N = {units}: accuracy", "training epoch")
        accuracy_axes(final, "Final accuracy", "d / N")
        panel(speed, "Epochs to accuracy 0.95", xlabel="d / N", ylabel="training epoch", xlim=final.get_xlim())
        speed.set_ylim(0, None)
        for axes in (course, final, speed):
            axes.locator_params(axis="x", nbins=5)
        for d, shade in shades.items():
            course.plot([], [], color=shade, label=f"d = {d}")
        for name in (name for name in TRAINED if any(row["trained"] == name for row in matching)):
            final.plot([], [], _LINES[name], marker=_MARKERS[name], ms=4, color=GREY, lw=1.2, label=name)
        course.legend(frameon=False, fontsize=8, loc="lower right")
        final.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0.07, 0.42))
        for axes in (final, speed):
            axes.axvline(1, color=GREY, lw=0.9, ls="--", zorder=0)
    return figure


def _shades(delays: list[int]) -> dict[int, Any]:
    from matplotlib import colormaps

    return dict(zip(delays, colormaps["viridis"](np.linspace(0, 0.85, len(delays))), strict=True))


def _each(axes: Axes, row: Group, values: np.ndarray, colour: Any):
    marker = _MARKERS[row["trained"]]
    axes.plot(np.full(len(values), row["load"]), values, marker, ms=5, color=colour, alpha=0.75, mew=0)


def table(data: Data) -> list[list[str]]:
    """The results of each group of networks."""
    rows = sorted(data["groups"], key=lambda row: (row["units"], row["d"]))
    return [
        ["trained", *schedules.HEAD],
        *([row["trained"], *schedules.table_row({"schedule": "whole", **row})] for row in rows),
    ]


def claims(data: Data) -> list[Claim]:
    """Whether networks solve delays of N steps and more, and whether a decaying learning rate reaches further."""
    return [
        _solves("(Our goal.) All networks of N units solve d = N.", data, lambda load: load == 1),
        _solves("(Our goal.) All networks of N units solve lags above N.", data, lambda load: load > 1),
        *(_falling_helps(data, setting.units) for setting in settings("laptop")),
    ]


def _falling_helps(data: Data, units: int) -> Claim:
    return reaches_further(
        f"(Our question.) With a learning rate that decays to 0, networks of {units} units solve longer lags.",
        [row for row in data["groups"] if row["units"] == units],
        DECAY_40K,
        CONSTANT,
        key="trained",
        names={DECAY_40K: "falling", CONSTANT: "constant"},
    )


def _solves(claim: str, data: Data, chosen: Callable[[float], bool]) -> Claim:
    matching = [row for row in data["groups"] if chosen(row["load"])]
    if not matching:
        return not_run(claim)
    listed, solved, tried = [], 0, 0
    for row in sorted(matching, key=lambda row: (row["units"], row["d"])):
        accuracy = numbers(row["final_accuracy"])
        outcomes = int((accuracy >= SOLVED).sum())
        setting = f"N = {row['units']}, d = {row['d']}, {row['trained']}"
        listed.append(f"{setting}: {outcomes} of {len(accuracy)}, best {accuracy.max():.3f}")
        solved, tried = solved + outcomes, tried + len(accuracy)
    enough = min(len(row["seed"]) for row in matching) >= 10
    verdict = "not reached" if solved < tried else "reached" if enough else UNDECIDED
    return Claim(claim, f"Final accuracy ≥ {SOLVED}: {'; '.join(listed)}.", networks(matching), verdict)
