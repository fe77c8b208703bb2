"""Beyond the paper: what limits networks at delays near N; one or a few settings changed at a time."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.drawing import GREY, new_figure, panel
from flossing_lab.paper.analysis.measures import SOLVED, Group, groups, numbers
from flossing_lab.paper.analysis.verdicts import correlates, count_solved, nine_of_ten, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import slug
from flossing_lab.sweeps.spec import Spec

NAME = "limits"
IN_PAPER = False
TITLE = "What limits the longest lag"
CAPTION = (
    "Temporal XOR at d = 76, N = 80, adaptive flossing, 10,000 training epochs. The first line is the baseline; each "
    "other line changes one or more settings. Left: final accuracy, averaged over the last 100 epochs. Middle: first "
    "epoch at which the running mean of the accuracy over 25 epochs reaches 0.95. Dots: each network; bar: median. The "
    "learning rate applies to training and flossing. Right: final accuracy against the number of directions alive at "
    "the end, that is, of the 75 leading exponents above -0.2 per step (over 76 steps, a factor above 3e-7), for "
    "networks that left chance (0.55). Changes were run on at most three networks, some on one, and several were not "
    "run."
)

AS_IS = "as it is"
CHANGES: dict[str, dict[str, Any]] = {
    AS_IS: {},
    "k = 80 (was 75)": {"k": 80},
    "1500 epochs before (was 500)": {"preflossing": 1500},
    "k = 80, 1500 epochs before": {"k": 80, "preflossing": 1500},
    "and checked every 25 (was 100)": {"k": 80, "preflossing": 1500, "every": 25},
    "orthogonal start": {"recurrent": "orthogonal"},
    "clip 0.3 (was 0.03)": {"clip": 0.3},
    "batch 64 (was 16)": {"batch": 64, "threshold": 1e-3},
    "20,000 epochs (was 10,000)": {"epochs": 20_000},
    "learning rate 0.0003 (was 0.001)": {"learning_rate": 3e-4},
    "learning rate 0.003": {"learning_rate": 3e-3},
    "threshold 0.01 (was 0.001)": {"threshold": 1e-2},
}
"""The changes, as labels and as fields of the configuration."""


ALIVE = -0.2
"""Directions with an exponent below this are not counted as alive: over 76 steps they shrink by 3e-7 or more."""
COUNTED = 75
"""Number of leading exponents examined: those that all runs flossed."""
LEARNED = 0.55
"""A network above this accuracy has left chance."""
_NEVER = 22_500.0  # x position of networks that do not solve their task


def specs(scale: Scale) -> list[Spec]:
    """The frontier's adaptive runs in its first setting, without and with each change."""
    setting = schedules.settings(scale)[0]
    changes = CHANGES if scale != "tiny" else dict(list(CHANGES.items())[:2])
    found = []
    for change, fields in changes.items():
        base = schedules.spec_of(
            scale,
            setting._replace(seeds=min(3, setting.seeds)) if fields and scale != "ten" else setting,
            "adaptive",
        )
        fields = {name: min(value, setting.units) if name == "k" else value for name, value in fields.items()}
        found.append(base.model_copy(update={"name": f"{NAME}-{slug(change)}", "base": {**base.base, **fields}}))
    return found


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, with the `change` and the number of directions `alive` at the end."""
    rows = []
    for change, spec in zip(CHANGES, specs(scale), strict=False):
        spectra = [np.asarray(run.info["spectra"]["end"], float) for _, run in results.runs(spec)]
        alive = [int((exponents[:COUNTED] > ALIVE).sum()) for exponents in spectra]
        rows += [{"change": change, **row, "alive": alive} for row in groups(results, spec)]
    return {"groups": rows}


def _alive_and_accuracy(rows: list[Group]) -> tuple[np.ndarray, np.ndarray]:
    # Of all networks that left chance.
    alive = np.array([count for row in rows for count in row["alive"]])
    accuracy = np.array([value for row in rows for value in numbers(row["final_accuracy"])])
    learned = accuracy > LEARNED
    return alive[learned], accuracy[learned]


def draw(data: Data) -> Figure:
    """Final accuracy and epochs to accuracy 0.95, one line per change; accuracy against directions alive."""
    rows = data["groups"]
    figure, ((final, speed, alive),) = new_figure(f"{TITLE}: temporal XOR, d = 0.95 N, N = 80", 1, 3, size=(14.0, 5.2))
    for place, row in enumerate(rows):
        colour = "#222222" if row["change"] == AS_IS else schedules.COLOURS["adaptive"]
        for axes, name, most in ((final, "final_accuracy", 1.0), (speed, "epochs_to_solve", _NEVER)):
            each = np.minimum(numbers(row[name]), most)
            axes.scatter(each, np.full(len(each), place), s=22, color=colour, alpha=0.7, lw=0)
            axes.plot([np.median(each)], [place], marker="|", ms=15, mew=2, color=colour)
    panel(final, "Final accuracy", xlabel="accuracy", xlim=(0.45, 1.01))
    panel(speed, "Epochs to accuracy 0.95", xlabel="training epoch", xlim=(0, 1.05 * _NEVER))
    speed.set_xticks([0, 5_000, 10_000, 15_000, 20_000, _NEVER], ["0", "5000", "10,000", "15,000", "20,000", "never"])
    panel(alive, "Directions alive at the end", xlabel="exponents above -0.2 per step", ylabel="accuracy")
    alive.plot(*_alive_and_accuracy(rows), "o", ms=5, color=schedules.COLOURS["adaptive"], alpha=0.7, mew=0)
    final.axvline(SOLVED, color=GREY, lw=0.9, ls="--", zorder=0)
    for axes in (final, speed):
        axes.set_yticks(range(len(rows)), [row["change"] for row in rows] if axes is final else [])
        axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def claims(data: Data) -> list[Claim]:
    """Whether some change suffices, and whether accuracy correlates with the directions alive."""
    rows: list[Group] = data["groups"]
    claim = "(Our goal.) With at least one change, nine of ten networks solve d = 0.95 N, N = 80."
    if len(rows) < 2 or rows[0]["change"] != AS_IS:
        return [not_run(claim), not_run(_ALIVE)]
    listed = [f"{row['change']}: {np.median(numbers(row['final_accuracy'])):.3f}" for row in rows]
    best = max(rows[1:], key=lambda row: (count_solved(row) / len(row["seed"]), len(row["seed"])))
    judged = [nine_of_ten(claim, row) for row in rows[1:]]
    reached = [(goal, row) for goal, row in zip(judged, rows[1:], strict=True) if goal.verdict == "reached"]
    goal, best = reached[0] if reached else (nine_of_ten(claim, best), best)
    found = f"Median final accuracy: {'; '.join(listed)}. Most networks, {best['change']}: {goal.found}"
    return [goal._replace(found=found), _goes_with_directions(rows)]


_ALIVE = "(Our question.) Final accuracy correlates with the number of directions alive."


def _goes_with_directions(rows: list[Group]) -> Claim:
    alive, accuracy = _alive_and_accuracy(rows[:1])  # each network once: the other rows repeat some of them
    if len(alive) < 6 or len({*alive.tolist()}) < 2:
        return not_run(_ALIVE)
    found = f"Networks as they are that left chance, with {alive.min()} to {alive.max()} directions alive."
    return correlates(_ALIVE, found, alive, accuracy)
