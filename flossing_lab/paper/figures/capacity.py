"""Beyond the paper: the linear memory of networks before and after flossing and training.

The memory function of Jaeger (2001) is the R^2 of the best linear readout of the input bit at each lag. Its sum over
lags is the linear memory capacity, at most N (Dambre et al. 2012, Information processing capacity of dynamical
systems).
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from flossing_lab.paper import schedules
from flossing_lab.paper.analysis.curves import draw_summary, summary
from flossing_lab.paper.analysis.drawing import GREY, legend_below, new_figure, panel
from flossing_lab.paper.analysis.measures import numbers, shorten
from flossing_lab.paper.analysis.verdicts import compare, decide, most_do, not_run
from flossing_lab.paper.calculations.capacity import memory_function, parity_function, random_bits
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import NETWORKS
from flossing_lab.statistics import rank_sum
from flossing_lab.sweeps.spec import Spec

NAME = "capacity"
IN_PAPER = False
TITLE = "Linear memory of the state"
MISSING = "Not included, since their run directories are missing"
CAPTION = (
    "Networks of N = 80 tanh units driven by random bits. Left: R² of the best linear readout of the input bit "
    "against its lag, fitted on 10,000 steps and evaluated on 10,000 others. Middle: the same for the XOR of two bits "
    "d/2 = 38 steps apart, in trained networks. Right: the sums over lags; dots: bits (the linear memory capacity), "
    "rings: bits and parities together. Each sum is at most N. Networks: as drawn; after 500 flossing epochs (k = 75) "
    "over windows of 55 and 152 steps; and after 10,000 epochs of training on the temporal XOR at d = 76 under each "
    "schedule of the frontier (the periodic schedule flosses once more right before the end). A trained network need "
    "not store all d bits in linearly readable form. Lines: median over networks, bands: quartiles; dots: each network."
)
STEPS = 10_000
SHORT, LONG = "flossed, window 55", "flossed, window 152"
_COLOURS = {"as drawn": "#222222", SHORT: "#74a9cf", LONG: "#0b6fa4"}
_DASHED: dict[str, Any] = {"ls": "--"}


def _size(scale: Scale) -> dict[str, Any]:
    if scale == "tiny":
        return {"networks": 2, "units": 8, "epochs": 5, "learning_rate": 0.001, "steps": 200, "lags": 12}
    networks = max(10, NETWORKS[scale])
    return {"networks": networks, "units": 80, "epochs": 500, "learning_rate": 0.001, "steps": STEPS, "lags": 160}


def specs(scale: Scale) -> list[Spec]:
    """The frontier's runs in its first setting, d = 0.95 N."""
    return [schedules.spec_of(scale, schedules.settings(scale)[0], schedule) for schedule in schedules.SCHEDULES]


def calculations(scale: Scale) -> list[Calculation]:
    """Networks as drawn, and flossed over two windows."""
    function, size = "memory_of_flossed", _size(scale)
    k = 15 * size["units"] // 16
    kinds = {"drawn": (0, 55), "short": (k, 55), "long": (k, 152)}
    return [
        Calculation(f"{NAME}-{scale}-{name}", function, {**size, "k": k, "window": window})
        for name, (k, window) in kinds.items()
    ]


def collect(results: Results, scale: Scale) -> Data:
    """A row for each available kind of network: the memory function against the lag, and each network's capacity."""
    size, rows = _size(scale), []
    lags = size["lags"]
    for kind, calculation in zip(_COLOURS, calculations(scale), strict=True):
        if (found := results.calculation(calculation)) is not None:
            rows.append({"kind": kind, **_row(found["memory"])})
    apart = schedules.settings(scale)[0].delays[0]
    for schedule, spec in zip(schedules.SCHEDULES, specs(scale), strict=True):
        functions, parities = [], []
        for values, run in results.runs(spec):
            arrays = run.parameters
            weights = arrays["network.J"], arrays["network.ws"], arrays["network.b"]
            bits = random_bits(values["seed"], size["steps"], lags + apart)
            functions.append(memory_function(weights, bits, lags))
            parities.append(parity_function(weights, bits, lags, apart))
        if functions:
            rows.append({"kind": schedule, **_row(np.stack(functions)), **_row(np.stack(parities), "parity_")})
    return {"units": size["units"], "apart": apart, "rows": rows}


def _row(memory: Float[np.ndarray, "networks lags"], prefix: str = "") -> dict[str, Any]:
    curve = summary(np.arange(memory.shape[1]), memory)
    return {f"{prefix}memory": curve, f"{prefix}capacity": shorten(memory.sum(1))}


def draw(data: Data) -> Figure:
    """R² against the lag, for bits and for parities; capacity of each network."""
    figure, ((function, parity, capacity),) = new_figure(f"{TITLE} (N = {data['units']})", 1, 3, size=(15.5, 4.8))
    labels = []
    for index, row in enumerate(data["rows"]):
        kind = row["kind"]
        colour = _COLOURS.get(kind) or schedules.COLOURS[kind]
        labels.append(kind if kind in _COLOURS else f"trained, {schedules.LABELS[kind]}")
        draw_summary(function, row["memory"], colour=colour, label=labels[-1], **({} if kind in _COLOURS else _DASHED))
        each = numbers(row["capacity"])
        if "parity_memory" in row:
            draw_summary(parity, row["parity_memory"], colour=colour, label=None, **_DASHED)
            both = each + numbers(row["parity_capacity"])
            capacity.scatter(both, np.full(len(both), index), s=22, facecolors="none", edgecolors=colour, alpha=0.8)
        capacity.scatter(each, np.full(len(each), index), s=18, color=colour, alpha=0.65, lw=0)
        capacity.plot([np.median(each)], [index], marker="|", ms=14, mew=2, color=colour)
    panel(function, "Memory function", xlabel="lag (steps)", ylabel="R²", ylim=(-0.02, 1.05))
    apart = data.get("apart", 0)
    panel(parity, f"Parities of two bits, {apart} steps apart", xlabel="lag of the later bit", ylim=(-0.02, 1.05))
    panel(
        capacity, "Capacity: bits; rings: with parities", xlabel="sum of R² over lags", xlim=(0, 1.05 * data["units"])
    )
    capacity.set_yticks(range(len(labels)), labels)
    capacity.invert_yaxis()
    capacity.axvline(data["units"], color=GREY, lw=0.9, ls="--", zorder=0)
    if labels:
        legend_below(figure, function, columns=3)
    return figure


def claims(data: Data) -> list[Claim]:
    """Whether flossing and training raise the memory capacity, and which functions trained networks store."""
    capacity = {row["kind"]: row["capacity"] for row in data["rows"]}
    return [
        _larger("(Our question.) Flossing raises the linear memory capacity.", capacity, LONG, "as drawn"),
        _larger(
            "(Our question.) Training with adaptive flossing raises it more.", capacity, "adaptive", LONG, paired=False
        ),
        _holds_parities(data),
    ]


def _holds_parities(data: Data) -> Claim:
    claim = "(Our question.) Trained at d = 0.95 N, networks have capacities of bits and parities that add up to d."
    matching = [row for row in data["rows"] if row["kind"] == "whole"]
    if not matching:
        return not_run(claim)
    bits, parities = (numbers(matching[0][name]) for name in ("capacity", "parity_capacity"))
    d = 2 * data["apart"]
    near = np.abs((bits + parities) / d - 1) <= 0.1
    found = (
        f"Trained with adaptive flossing of all directions, median capacity: bits {np.median(bits):.1f}, parities "
        f"{np.median(parities):.1f}, both {np.median(bits + parities):.1f}; d = {d}. Networks within 10 %:"
    )
    return most_do(claim, found, [(int(near.sum()), len(near))])


def _larger(claim: str, capacity: dict[str, list[float]], ours: str, theirs: str, *, paired: bool = True) -> Claim:
    """Networks as drawn and flossed are the same; those that were trained were drawn with other keys."""
    if not {ours, theirs} <= capacity.keys() or len(capacity[ours]) != len(capacity[theirs]):
        return not_run(claim)
    found = f"Median capacity: {ours} {np.median(capacity[ours]):.1f}, {theirs} {np.median(capacity[theirs]):.1f}."
    if paired:
        return compare(claim, found, capacity[ours], capacity[theirs])
    p = rank_sum(capacity[ours], capacity[theirs])
    more = float(np.median(capacity[ours])) > float(np.median(capacity[theirs]))
    n = len(capacity[ours])
    return Claim(claim, f"{found} These are other networks: p = {p:.2g} (rank sum, n = {n} each).", n, decide(p, more))
