"""Supplement: the length of the flossing window."""

from matplotlib.figure import Figure

from flossing_lab.paper.analysis.measures import SOLVED, groups
from flossing_lab.paper.analysis.verdicts import NO_DIFFERENCE, networks, not_run, solved_share
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.figures.supplement_k import draw_along
from flossing_lab.paper.scales import SIZES, spec
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_window"
IN_PAPER = True
TITLE = "Length of the flossing window"
CAPTION = (
    "Temporal XOR at the longest lag d = 60, flossing before and during training (k = 75), against the length of the "
    "flossing window; its first steps, 10 plus a tenth of the window, are the transient. Left: final accuracy, "
    "averaged over the last 100 epochs. Right: first epoch at which the running mean of the accuracy over 25 epochs "
    "reaches 0.95; networks that do not reach it are left out; the line is the median of all networks, drawn where "
    "more than half reach it. Dots: each network."
)


def specs(scale: Scale) -> list[Spec]:
    """One task, with flossing before and during training, for each window."""
    size = SIZES[scale]
    base = {"task": "temporal_xor", "delay": size.window_delay, "condition": "before_and_during"}
    return [spec(NAME, size, base, window=size.window)]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of each network's results, one for each window."""
    return {"groups": groups(results, *specs(scale))}


def draw(data: Data) -> Figure:
    """Final accuracy and speed against the window."""
    return draw_along(data["groups"], "window", TITLE, "flossing window (steps)")


def claims(data: Data) -> list[Claim]:
    """The claim that windows should span the longest lag."""
    claim = "(Our question.) With a flossing window of at least d steps, more networks solve the task."
    rows = data["groups"]
    long, of_long = solved_share(rows, lambda row: row["window"] >= row["d"])
    less, of_less = solved_share(rows, lambda row: row["window"] < row["d"])
    if not of_long or not of_less:
        return [not_run(claim)]
    found = (
        f"Solved (final accuracy ≥ {SOLVED}): {long} of {of_long} networks with window ≥ d, {less} of {of_less} below."
    )
    if (long, less) == (of_long, of_less):
        return [Claim(claim, f"{found} {NO_DIFFERENCE}", networks(rows), "undecided")]
    more = long / of_long - less / of_less
    if round(abs(more) * min(of_long, of_less)) <= 1:
        return [Claim(claim, f"{found} A single network makes the difference.", networks(rows), "undecided")]
    verdict = "holds" if more > 0 else "does not hold"
    return [Claim(claim, found, networks(rows), verdict)]
