"""Supplement: flossing an LSTM."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flossing_lab.paper.analysis.curves import draw_summary, median, summary
from flossing_lab.paper.analysis.drawing import accuracy_axes, draw_final, legend_below, new_figure, panel
from flossing_lab.paper.analysis.measures import LAST, SMOOTH, numbers, short, shorten
from flossing_lab.paper.analysis.verdicts import compare, most_do, not_run, pairs_of
from flossing_lab.paper.contract import Calculation, Claim, Data, Results, Scale
from flossing_lab.paper.scales import NETWORKS
from flossing_lab.runs.config import Condition
from flossing_lab.runs.plotting import COLOURS, LABELS, LIGHT_GREY, running_mean
from flossing_lab.sweeps.spec import Spec

NAME = "supplement_lstm"
IN_PAPER = True
TITLE = "Flossing an LSTM"
CAPTION = (
    "Temporal XOR of the bits d/2 and d steps ago, by an LSTM of 48 units with uniform weights, without flossing and "
    "with 100 flossing epochs (k = 8) before training. Sequences of 100 bits, multiplied by 10 since an LSTM's weights "
    "are drawn that much smaller than the reference network's; batches of 16, Adam with learning rate 0.003. Accuracy "
    "on fresh sequences against the training epoch, running mean over 25 epochs: without a forget bias, and with the "
    "usual forget bias of 1, which gives an LSTM some memory at the start. Final accuracy is averaged over the last "
    "100 epochs. Exponents are measured over one sequence. Lines: median over networks, bands: quartiles, dots: each "
    "network. Learning rate, k, forget bias and the number of flossing epochs were chosen on another seed, 101. These "
    "settings are ours: we could not recover the paper's."
)
CONDITIONS: tuple[Condition, ...] = ("none", "before")
STAGES = ("at the start", "before training", "after training")

_SETTINGS: dict[str, Any] = {
    **{"units": 48, "k": 8, "steps": 100, "epochs": 3000, "batch": 16, "learning_rate": 0.003, "clip": 0.03},
    **{"amplitude": 10.0, "before": 100, "dtype": "float32"},
}


def _sizes(scale: Scale) -> dict[str, Any]:
    if scale == "tiny":
        small = {"units": 4, "k": 2, "steps": 12, "epochs": 12, "batch": 2, "before": 4, "dtype": "float64"}
        return {"tasks": [(4, 0.0)], "seeds": [1, 2], "settings": {**_SETTINGS, **small}}
    seeds = list(range(1, NETWORKS[scale] + 1))
    if scale != "paper":
        return {"tasks": [(20, 0.0), (40, 0.0), (60, 0.0), (20, 1.0)], "seeds": seeds, "settings": _SETTINGS}
    tasks = [(d, bias) for bias in (0.0, 1.0) for d in (10, 20, 30, 40, 60, 80)]
    return {"tasks": tasks, "seeds": seeds, "settings": {**_SETTINGS, "epochs": 10_000}}


def specs(scale: Scale) -> list[Spec]:
    """None: runs of the reference experiment use tanh units."""
    return []


def calculations(scale: Scale) -> list[Calculation]:
    """One for each lag, bias, condition and seed; those that differ only in their seeds compile once."""
    sizes = _sizes(scale)
    return [
        _calculation(scale, d, bias, condition, seed)
        for d, bias in sizes["tasks"]
        for condition in CONDITIONS
        for seed in sizes["seeds"]
    ]


def _calculation(scale: Scale, d: int, bias: float, condition: Condition, seed: int) -> Calculation:
    changed = {"seed": seed, "d": d, "flossed": condition != "none", "forget_bias": bias}
    function = "train_lstm"
    name = f"{NAME}-{scale}-d{d}-bias{bias:g}-{condition}-seed{seed}"
    return Calculation(name, function, {**changed, **_sizes(scale)["settings"]})


def collect(results: Results, scale: Scale) -> Data:
    """`rows` like those of `groups`, one for each lag, bias and condition with at least one network, with curves."""
    sizes = _sizes(scale)
    settings, tasks = sizes["settings"], sizes["tasks"]
    data: Data = {"units": settings["units"], "k": settings["k"], "tasks": [list(task) for task in tasks], "rows": []}
    for d, bias in tasks:
        for condition in CONDITIONS:
            found = {s: results.calculation(_calculation(scale, d, bias, condition, s)) for s in sizes["seeds"]}
            matching = {seed: arrays for seed, arrays in found.items() if arrays is not None}
            if matching:
                data["rows"].append({"d": d, "forget_bias": bias, "condition": condition, **_row(matching)})
    return data


def _row(found: dict[int, dict[str, np.ndarray]]) -> dict[str, Any]:
    accuracy = np.stack([arrays["accuracy"] for arrays in found.values()])
    epochs = np.arange(1, accuracy.shape[1] + 1)
    smooth = np.stack([running_mean(epochs, line, SMOOTH)[1] for line in accuracy])
    exponents = np.stack([arrays["exponents"] for arrays in found.values()])
    return {
        "seed": list(found),
        "final_accuracy": shorten(accuracy[:, -LAST:].mean(1)),
        "accuracy": summary(epochs, smooth),
        # The first and the last flossed exponent, at each stage.
        "exponents": [[[short(one[0]), short(one[-1])] for one in network] for network in exponents],
    }


def draw(data: Data) -> Figure:
    """Accuracy against the epoch in at most four panels; final accuracy; exponents."""
    rows = data["rows"]
    sizes = sorted({len(row["seed"]) for row in rows})
    title = f"{TITLE}: temporal XOR, {data['units']} units, k = {data['k']}"
    listed = f" ({' to '.join(map(str, sizes))} networks)" if sizes else ""
    figure, grid = new_figure(title + listed, 2, 3, size=(11.5, 6.6))
    *learning, final, exponents = grid.ravel()
    for axes, (d, bias) in zip(learning, _shown(data["tasks"]), strict=False):
        for row in rows:
            if (row["d"], row["forget_bias"]) == (d, bias):
                condition = row["condition"]
                draw_summary(axes, row["accuracy"], colour=COLOURS[condition], label=LABELS[condition])
        accuracy_axes(axes, f"d = {d}, forget bias {bias:g}", "training epoch")
    for axes in learning[len(data["tasks"]) :]:
        axes.set_visible(False)
    plain = [row for row in rows if row["forget_bias"] == 0]
    draw_final(final, plain, CONDITIONS, "Final accuracy, forget bias 0")
    _draw_exponents(exponents, plain, data["k"])
    legend_below(figure, final)
    return figure


def _shown(tasks: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    # Up to three panels without a forget bias, and one with it.
    plain, biased = ([task for task in tasks if bool(task[1]) == which] for which in (False, True))
    if len(plain) > 3:
        plain = [task for task in plain if task[0] in (20, 40, 60)]
    return [*plain, *[task for task in biased if task[0] == 20]]


def _draw_exponents(axes: Axes, rows: Sequence[dict[str, Any]], k: int):
    for condition in CONDITIONS:
        each = [
            numbers([ends[1] for ends in net])
            for row in rows
            if row["condition"] == condition
            for net in row["exponents"]
        ]
        if each:
            colour = COLOURS[condition]
            axes.plot(np.median(each, axis=0), color=colour, lw=1.7)
            for line in each:
                axes.plot(line, color=colour, ls="none", marker="o", ms=4, mew=0, alpha=0.65)
    axes.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    panel(axes, "Last flossed exponent, forget bias 0", ylabel=f"λ{k} (per step)")
    axes.set_xticks(range(len(STAGES)), STAGES)


def claims(data: Data) -> list[Claim]:
    """Claims about accuracy without and with a forget bias, and about the exponents."""
    found = [_accuracy_claim(data, 0.0, "Flossing before training raises the final accuracy of an LSTM.")]
    if any(bias for _, bias in data["tasks"]):
        found.append(_accuracy_claim(data, 1.0, "(Our question.) It also does so from a forget bias of 1."))
    return [*found, _exponents_claim(data)]


def _accuracy_claim(data: Data, bias: float, claim: str) -> Claim:
    rows = {(row["d"], row["condition"]): row for row in data["rows"] if row["forget_bias"] == bias}
    lags = [d for d, which in data["tasks"] if which == bias and all((d, name) in rows for name in CONDITIONS)]
    if not lags:
        return not_run(claim)
    cases = [(rows[d, CONDITIONS[1]], rows[d, CONDITIONS[0]]) for d in lags]
    listed = "; ".join(
        f"d = {d}: {median(theirs['final_accuracy']):.3f} without, {median(ours['final_accuracy']):.3f} with"
        for d, (ours, theirs) in zip(lags, cases, strict=True)
    )
    found = f"Median final accuracy, {listed}. The mean over d of each network:"
    return compare(claim, found, *pairs_of(cases, "final_accuracy"))


def _exponents_claim(data: Data) -> Claim:
    claim = "Flossing moves the first k exponents of an LSTM near 0."
    rows = [row for row in data["rows"] if row["condition"] != "none" and row["forget_bias"] == 0]
    if not rows:
        return not_run(claim)
    each = np.asarray([[numbers(ends) for ends in network] for row in rows for network in row["exponents"]])
    listed = ", ".join(
        f"{first:.3f} and {last:.3f} {stage}"
        for (first, last), stage in zip(np.median(each, axis=0), STAGES, strict=True)
    )
    found = (
        f"λ₁ and λ{data['k']} over one sequence, median over lags and networks: {listed}. Networks with both within "
        "0.05 of 0 after flossing, before training, at each d:"
    )
    counts = []
    for row in rows:
        good = [max(abs(numbers(network[1]))) < 0.05 for network in row["exponents"]]
        counts.append((sum(good), len(good)))
    return most_do(claim, found, counts)
