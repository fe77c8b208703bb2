"""Supplement: how long the flossing window should be."""

from matplotlib.figure import Figure

from flossing_lab.paper.analysis.measures import SOLVED, groups
from flossing_lab.paper.analysis.verdicts import NO_DIFFERENCE, networks, not_run, solved_share
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.figures.supplement_k import draw_along
from flossing_lab.paper.scales import SIZES, spec
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_window"
IN_PAPER = True
TITLE = "How long to floss over"
CAPTION = (
    "Temporal XOR at the longest lag d = 60, flossing before and during training (k = 75), against the steps over "
    "which exponents are measured when they are flossed; 10 + a tenth of them are the transient. Left: accuracy at "
    "the end, the mean over the last 100 epochs. Right: the first epoch at which the running mean of the accuracy "
    "over 25 epochs is 0.95; networks that do not get there are left out, and the line is the median of all, where "
    "more than half do. Dots: each network."
)


def specs(scale: Scale) -> list[Spec]:
    """One task, flossing before and during training, along the window."""
    size = SIZES[scale]
    base = {"task": "temporal_xor", "delay": size.window_delay, "condition": "before_and_during"}
    return [spec(NAME, size, base, window=size.window)]


def calculations(scale: Scale) -> list[Calculation]:
    """None: all comes from runs."""
    return []


def collect(results: Results, scale: Scale) -> Data:
    """`groups` of what each network reached, one for each window."""
    return {"groups": groups(results, *specs(scale))}


def draw(data: Data) -> Figure:
    """Final accuracy and speed against the window."""
    return draw_along(data["groups"], "window", TITLE, "flossing window (steps)")


def claims(data: Data) -> list[Claim]:
    """Windows that span the lag against windows that do not."""
    claim = "(Our question.) A flossing window as long as the longest lag, or longer, is better than a shorter one."
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
        return [Claim(claim, f"{found} One network decides.", networks(rows), "undecided")]
    verdict = "holds" if more > 0 else "does not hold"
    return [Claim(claim, found, networks(rows), verdict)]
