"""Beyond the paper: what keeps a network from a horizon near its size, a few changes at a time."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.drawing import GREY, new_figure, panel
from flossing_lab.paper.analysis.measures import SOLVED, Group, groups, numbers
from flossing_lab.paper.analysis.verdicts import networks, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import slug
from flossing_lab.sweeps.spec import Spec

NAME = "limits"
IN_PAPER = False
TITLE = "What limits the horizon"
CAPTION = (
    "Temporal XOR at d = 76, N = 80, adaptive flossing, 10,000 training epochs; each line with a change or some, but "
    "the first. Left: accuracy at the end, the mean over the last 100 epochs. Middle: the first epoch at which the "
    "running mean of the accuracy over 25 epochs is 0.95. Dots: each network; bar: the median. The learning rate is "
    "that of training and of flossing. Right: accuracy at the end against the number of directions that are alive "
    "there, those of the 75 leading exponents above -0.2 per step (over 76 steps: above a factor of 3e-7), for the "
    "networks that have left chance (0.55)."
)

AS_IS = "as it is"
CHANGES: dict[str, dict[str, Any]] = {
    AS_IS: {},
    "k = 80 (was 75)": {"k": 80},
    "1500 epochs before (was 500)": {"epochs_before": 1500},
    "k = 80, 1500 epochs before": {"k": 80, "epochs_before": 1500},
    "and asked every 25 (was 100)": {"k": 80, "epochs_before": 1500, "every": 25},
    "orthogonal start": {"recurrent": "orthogonal"},
    "clip 0.3 (was 0.03)": {"clip": 0.3},
    "batch 64 (was 16)": {"batch": 64, "threshold": 1e-3},
    "20,000 epochs (was 10,000)": {"epochs": 20_000},
    "learning rate 0.0003 (was 0.001)": {"learning_rate": 3e-4},
    "learning rate 0.003": {"learning_rate": 3e-3},
    "threshold 0.01 (was 0.001)": {"threshold": 1e-2},
}
"""What is changed, in words and as fields of the configuration."""


ALIVE = -0.2
"""A direction with an exponent below carries nothing over 76 steps."""
COUNTED = 75
"""So many leading exponents are looked at: those that all runs flossed."""
LEARNT = 0.55
"""A network has left chance."""
_NEVER = 22_500.0  # where networks are drawn that do not solve their task


def specs(scale: Scale) -> list[Spec]:
    """The frontier's adaptive runs at its first place, and the same with each change."""
    place = schedules.places(scale)[0]
    changes = CHANGES if scale != "tiny" else dict(list(CHANGES.items())[:2])
    found = []
    for change, fields in changes.items():
        base = schedules.spec_of(scale, place._replace(seeds=min(3, place.seeds)) if fields else place, "adaptive")
        fields = {name: min(value, place.units) if name == "k" else value for name, value in fields.items()}
        found.append(base.model_copy(update={"name": f"{NAME}-{slug(change)}", "base": {**base.base, **fields}}))
    return found


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of what each network reached, with the `change`, and `alive`, how many directions are at the end."""
    rows = []
    for change, spec in zip(CHANGES, specs(scale), strict=False):
        spectra = [np.asarray(run.info["spectra"]["end"], float) for _, run in results.runs(spec)]
        alive = [int((exponents[:COUNTED] > ALIVE).sum()) for exponents in spectra]
        rows += [{"change": change, **row, "alive": alive} for row in groups(results, spec)]
    return {"groups": rows}


def _alive_and_accuracy(rows: list[Group]) -> tuple[np.ndarray, np.ndarray]:
    # Of all networks that have left chance.
    alive = np.array([count for row in rows for count in row["alive"]])
    accuracy = np.array([value for row in rows for value in numbers(row["final_accuracy"])])
    learnt = accuracy > LEARNT
    return alive[learnt], accuracy[learnt]


def draw(data: Data) -> Figure:
    """Final accuracy and epochs to accuracy 0.95, a line for each change."""
    rows = data["groups"]
    figure, ((final, speed, alive),) = new_figure(f"{TITLE}: temporal XOR, d = 0.95 N, N = 80", 1, 3, size=(14.0, 5.2))
    for place, row in enumerate(rows):
        colour = "#222222" if row["change"] == AS_IS else schedules.COLOURS["adaptive"]
        for axes, name, most in ((final, "final_accuracy", 1.0), (speed, "epochs_to_solve", _NEVER)):
            each = np.minimum(numbers(row[name]), most)
            axes.scatter(each, np.full(len(each), place), s=22, color=colour, alpha=0.7, lw=0)
            axes.plot([np.median(each)], [place], marker="|", ms=15, mew=2, color=colour)
    panel(final, "Accuracy at the end", xlabel="accuracy", xlim=(0.45, 1.01))
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
    """Whether any one change makes a difference, and what goes with the accuracy."""
    rows: list[Group] = data["groups"]
    claim = "(Our question.) Some change brings all networks to d = 0.95 N, N = 80."
    if not rows or rows[0]["change"] != AS_IS:
        return [not_run(claim), not_run(_ALIVE)]
    listed = [f"{row['change']}: {np.median(numbers(row['final_accuracy'])):.3f}" for row in rows]
    outcomes = [row["change"] for row in rows if (numbers(row["final_accuracy"]) >= SOLVED).all()]
    found = f"Median of the final accuracy: {'; '.join(listed)}."
    return [Claim(claim, found, networks(rows), "holds" if outcomes else "does not hold"), _goes_with_directions(rows)]


_ALIVE = "(Our question.) A network is as good as it has directions alive."


def _goes_with_directions(rows: list[Group]) -> Claim:
    alive, accuracy = _alive_and_accuracy(rows)
    if len(alive) < 6 or len({*alive.tolist()}) < 2:
        return not_run(_ALIVE)
    correlation = float(spearmanr(alive, accuracy)[0])  # pyright: ignore[reportArgumentType]
    found = (
        f"{len(alive)} runs that left chance, with {alive.min()} to {alive.max()} directions alive: rank correlation "
        f"with the accuracy {correlation:.2f} (criterion: at least 0.7)."
    )
    return Claim(_ALIVE, found, networks(rows), "holds" if correlation >= 0.7 else "does not hold")
