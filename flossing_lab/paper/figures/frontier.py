"""Beyond the paper: which delay each schedule of flossing reaches, against the size of the network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.drawing import GREY, accuracy_axes, legend_below, medians, new_figure, panel
from flossing_lab.paper.analysis.measures import SOLVED, Group, groups, numbers
from flossing_lab.paper.analysis.verdicts import networks, nine_of_ten, not_run
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale, Verdict
from flossing_lab.paper.schedules import COLOURS, HEAD, LABELS, OURS, SCHEDULES, epochs_of, places, spec_of, table_row
from flossing_lab.sweeps.spec import Spec

NAME = "frontier"
IN_PAPER = False
TITLE = "How long a horizon each schedule reaches"
CAPTION = (
    "Temporal XOR at lags d/2 and d, sequences of 300 steps, at most 10,000 training epochs, against d / N. Training "
    "ends early at an accuracy of 0.98, or after 5000 epochs if it was never 0.55, as the mean over 100 epochs; but "
    "for d = 0.95 N, N = 80, where all epochs are run. Top: accuracy at the end, the mean over the last 100 epochs. "
    "Bottom: the first epoch at which the running mean of the accuracy over 25 epochs is 0.95; networks that do not "
    "get there are left out, and the line is the median of all, where more than half do. Dots: each network. k is "
    "15/16 N. Schedules: the reference's, 500 flossing epochs before training and two more blocks of 500, window 55; "
    "periodic, 500 before and 50 every 200 training epochs, window 100; adaptive, 500 before and 50 whenever |dL/dx₀| "
    "<= 0.001 |dL/dJ|, asked every 100 epochs, window 2 d (at most 300); adaptive, all directions: the same with "
    "k = N, 1500 before, and asked every 25 epochs, which was added when seeds 5 and 10 had shown at d = 0.95 N, "
    "N = 80, what limits the others. The vertical line is where d = N, the most that N units can hold for linear "
    "readouts. In the table numbers are medians over networks, in brackets the least and the most; seconds are those "
    "of one core with others at work, of several machines: with N = 160 they are not to be compared."
)


def specs(scale: Scale) -> list[Spec]:
    """Every schedule at every place."""
    return [spec_of(scale, place, schedule) for place in places(scale) for schedule in SCHEDULES]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of what each network reached, with `units`, `schedule`, and `load`, which is d / N."""
    rows = []
    for place in places(scale):
        for schedule in SCHEDULES:
            for row in groups(results, spec_of(scale, place, schedule)):
                rows.append({"units": place.units, "schedule": schedule, "load": row["d"] / place.units, **row})
    return {"groups": rows}


def draw(data: Data) -> Figure:
    """Final accuracy and epochs to accuracy 0.95 against d / N, a column for each size of network."""
    rows = data["groups"]
    sizes = sorted({row["units"] for row in rows})
    figure, grid = new_figure(f"{TITLE}: temporal XOR", 2, max(len(sizes), 1), size=(max(10.0, 4.3 * len(sizes)), 7.2))
    for (final, speed), units in zip(grid.T, sizes, strict=False):
        for index, schedule in enumerate(LABELS):
            matching = [row for row in rows if row["units"] == units and row["schedule"] == schedule]
            if matching:
                style = {"colour": COLOURS[schedule], "label": LABELS[schedule], "shift": 2.5 * (index - 3)}
                medians(final, matching, "load", "final_accuracy", **style)
                medians(speed, matching, "load", "epochs_to_solve", **style)
        accuracy_axes(final, f"N = {units}: accuracy at the end", "d / N")
        panel(speed, "Epochs to accuracy 0.95", xlabel="d / N", ylabel="training epoch")
        for axes in (final, speed):
            axes.axvline(1, color=GREY, lw=0.9, ls="--", zorder=0)
        speed.set(xlim=final.get_xlim(), ylim=(0, 10_500))
    if sizes:
        # Not each schedule is there for each size.
        fullest = max(grid[0], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend_below(figure, fullest, columns=4)
    return figure


def table(data: Data) -> list[list[str]]:
    """What each schedule reached at each place, and at what cost."""
    rows = sorted(data["groups"], key=lambda row: (row["units"], row["d"], list(LABELS).index(row["schedule"])))
    return [HEAD, *map(table_row, rows)]


def claims(data: Data) -> list[Claim]:
    """What adaptive flossing is meant to reach."""
    rows = data["groups"]
    found = [_reaches(rows, schedule, units) for units in (40, 80, 160) for schedule in OURS]
    found += [_costs_less(rows, schedule) for schedule in OURS]
    return [*found, *(_is_no_slower(rows, schedule) for schedule in OURS), _goes_beyond(rows)]


def _reaches(rows: Sequence[Group], schedule: str, units: int) -> Claim:
    claim = f"(Our goal.) {OURS[schedule]} solves d = 0.95 N in nine of ten networks, N = {units}."
    matching = [row for row in _of(rows, schedule) if row["units"] == units and round(0.95 * units) == row["d"]]
    return nine_of_ten(claim, matching[0]) if matching else not_run(claim)


def _costs_less(rows: Sequence[Group], schedule: str) -> Claim:
    claim = (
        f"(Our goal.) {OURS[schedule]} flosses less than the periodic schedule: fewer epochs times steps of their "
        "window."
    )
    pairs = _pairs(rows, schedule, "periodic")
    if not pairs:
        return not_run(claim)
    ours = [float(np.median(numbers(a["flossed_steps"]))) for a, _ in pairs]
    theirs = [float(np.median(numbers(b["flossed_steps"]))) for _, b in pairs]
    listed = "; ".join(
        f"{_where(a)}: {x:.0f} against {y:.0f}" for (a, _), x, y in zip(pairs, ours, theirs, strict=True)
    )
    found = f"Steps flossed in all epochs, median over networks: {listed}."
    compared = [row for pair in pairs for row in pair]
    return Claim(claim, found, networks(compared), _share([x < y for x, y in zip(ours, theirs, strict=True)]))


def _is_no_slower(rows: Sequence[Group], schedule: str) -> Claim:
    claim = (
        f"(Our goal.) At delays below 0.95 N {OURS[schedule].lower()} is no more than 20 % slower than the best other "
        "schedule."
    )
    listed, outcomes, compared = [], [], []
    for row in _of(rows, schedule):
        rivals = [r for r in rows if r["schedule"] not in OURS and _where(r) == _where(row)]
        if row["load"] >= 0.94 or not rivals:
            continue
        best = min(rivals, key=epochs_of)
        if np.isfinite(epochs_of(best)):
            listed.append(
                f"{_where(row)}: {epochs_of(row):.0f} against {epochs_of(best):.0f} ({LABELS[best['schedule']]})"
            )
            outcomes.append(epochs_of(row) <= 1.2 * epochs_of(best))
            compared += [row, best]
    if not outcomes:
        return not_run(claim)
    found = f"Epochs to accuracy {SOLVED}, median over networks: {'; '.join(listed)}."
    return Claim(claim, found, networks(compared), _share(outcomes))


def _goes_beyond(rows: Sequence[Group]) -> Claim:
    claim = "(Our question.) Some network of N units solves a delay d above N with no more epochs than these."
    matching = [row for row in rows if row["load"] > 1]
    if not matching:
        return not_run(claim)
    best = max(matching, key=lambda row: numbers(row["final_accuracy"]).max())
    reached = numbers(best["final_accuracy"]).max()
    found = f"The best network beyond reaches {reached:.3f}: {_where(best)}, {LABELS[best['schedule']]}."
    return Claim(claim, found, networks(matching), "holds" if reached >= SOLVED else "does not hold")


def _of(rows: Sequence[Group], schedule: str) -> list[Group]:
    return [row for row in rows if row["schedule"] == schedule]


def _pairs(rows: Sequence[Group], ours: str, theirs: str) -> list[tuple[Group, Group]]:
    matching = {_where(row): row for row in _of(rows, theirs)}
    return [(row, matching[_where(row)]) for row in _of(rows, ours) if _where(row) in matching]


def _where(row: Group) -> str:
    return f"N = {row['units']}, d = {row['d']}"


def _share(outcomes: Sequence[bool]) -> Verdict:
    return "holds" if all(outcomes) else "holds in part" if any(outcomes) else "does not hold"
