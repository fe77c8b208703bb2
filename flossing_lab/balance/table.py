"""The results of the balance experiment: `python -m flossing_lab.balance.table RUNS docs/data`.

RUNS is the directory of a sweep of balance runs that differ in the number of signals and in their seeds. This writes
`balance.json`, the numbers of each run; `balance.txt`, the table that docs/balance.md shows; and, for each number of
signals, a small plot of its first run.

With `--by dt`, for runs that differ in their time step, it writes `balance_dt.json` and `balance_dt.txt`.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from PIL import Image

from flossing_lab.balance.config import BalanceConfig
from flossing_lab.runs import tables
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import write_atomically, write_json
from flossing_lab.sweeps.collection import find_runs

EARLY = 5000
"""The epoch by which one signal is learned, according to the released figure."""

Row = Mapping[str, Any]
Axis = Literal["signals", "dt"]

HEADS: dict[Axis, str] = {"signals": "S = {}", "dt": "Δt = {}"}

MEASURES: dict[str, Callable[[Row], Any]] = {
    "test error before training": lambda run: run["test_error"]["start"],
    f"test error after {EARLY:,} epochs": lambda run: run["test_error"]["early"],
    "test error at the end": lambda run: run["test_error"]["end"],
    "share of it due to the cost of activity": lambda run: run["activity_share"],
    "epoch at which the plateau ends": lambda run: run["plateau_end"],
    "tightness of balance": lambda run: run["balance"],
    "mean coupling within clusters": lambda run: run["coupling_within"],
    "mean coupling between clusters": lambda run: run["coupling_between"],
    "smallest cluster, neurons": lambda run: min(run["cluster_sizes"]),
    "leftmost eigenvalue before training": lambda run: run["outliers"]["start"][0],
    "leftmost eigenvalue": lambda run: run["outliers"]["end"][0],
    "second": lambda run: run["outliers"]["end"][1] if run["signals"] > 1 else None,
    "third": lambda run: run["outliers"]["end"][2] if run["signals"] > 2 else None,
    "mean of the outliers": lambda run: np.mean(run["outliers"]["end"]),
    "standard deviation of an outlier over sequences": lambda run: np.mean(run["outliers"]["sd"]),
    "correlation of weights, same signal": lambda run: np.diag(run["weight_correlations"]).mean(),
    "largest exponent before training": lambda run: run["exponents"]["start"][0],
    "largest exponent": lambda run: run["exponents"]["end"][0],
    "smallest exponent before training": lambda run: run["exponents"]["start"][-1],
    "smallest exponent": lambda run: run["exponents"]["end"][-1],
}

MEASURES_BY_STEP: dict[str, Callable[[Row], Any]] = {
    "1 − 1/Δt": lambda run: 1 - 1 / run["dt"],
    "leftmost eigenvalue before training": MEASURES["leftmost eigenvalue before training"],
    "leftmost eigenvalue halfway": lambda run: run["outliers"]["middle"][0],
    "leftmost eigenvalue at the end": MEASURES["leftmost eigenvalue"],
    "tightness of balance": MEASURES["tightness of balance"],
    "test error at the end": MEASURES["test error at the end"],
}


def summarise(run: RunDirectory) -> dict[str, Any]:
    """The numbers of one run, as balance.json holds them; ValueError unless it is a finished run of this one."""
    config, info = run.config, run.info
    if not isinstance(config, BalanceConfig) or info["status"] != "finished":
        raise ValueError(f"runs must be finished runs of the experiment 'balance', got {str(run.path)!r}")
    test = run.metrics("test")
    early = np.flatnonzero(test["epoch"] == EARLY)
    return {
        "signals": config.task.signals,
        "dt": config.network.dt,
        "seed": config.seeds.seed_network,
        "epochs": config.training.epochs,
        "test_error": {
            "start": test["test_error"][0],
            "early": test["test_error"][early[0]] if len(early) else None,
            "end": test["test_error"][-1],
        },
        "activity_share": 1 - test["test_squared_error"][-1] / test["test_error"][-1],
        "plateau_end": plateau_end(test) if config.task.signals > 1 and len(early) else None,
        **{name: test[name][-1] for name in ("balance", "coupling", "coupling_within", "coupling_between")},
        "cluster_sizes": np.bincount(test["clusters"][-1]),
        "outliers": {
            "start": test["outliers"][0],
            "middle": test["outliers"][len(test["outliers"]) // 2],
            "end": test["outliers"][-1],
            "sd": test["outliers_sd"][-1],
        },
        "weight_correlations": test["weight_correlations"][-1],
        "exponents": {stage: [values[0], values[-1]] for stage, values in info["spectra"].items()},
    }


def plateau_end(test: Mapping[str, np.ndarray]) -> int:
    """The epoch of the first test at which the error has fallen at least halfway from the plateau to its final value.

    The error of the plateau is that at epoch EARLY.
    """
    epoch, error = test["epoch"], test["test_error"]
    fallen = (epoch >= EARLY) & (error <= (error[epoch == EARLY][0] + error[-1]) / 2)
    return int(epoch[np.argmax(fallen)])


def shrink(run: RunDirectory) -> bytes:
    """The plot of a run as a PNG of about 60 kB."""
    from flossing_lab.balance.experiment import draw

    large, small = io.BytesIO(), io.BytesIO()
    draw(run).savefig(large, format="png", dpi=72)
    Image.open(large).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def tabulate(runs: Sequence[Row], by: Axis = "signals") -> str:
    """The table in Markdown: median and range over seeds, one column for each value of the axis."""
    groups = {value: [run for run in runs if run[by] == value] for value in sorted({run[by] for run in runs})}
    rows = [("", *(HEADS[by].format(value) for value in groups))]
    for name, measure in (MEASURES if by == "signals" else MEASURES_BY_STEP).items():
        rows.append((name, *(_spread([measure(run) for run in group]) for group in groups.values())))
    counts = {f"{len(g)} run{'s'[: len(g) - 1]} of {g[0]['epochs']:,} epochs" for g in groups.values()}
    shown = "Medians over runs, with their range; each" if max(map(len, groups.values())) > 1 else "Each"
    return f"{tables.markdown(rows)}\n\n{shown} column: {', '.join(sorted(counts))}.\n"


def _spread(values: Sequence[Any]) -> str:
    # The JSON holds numbers, null for missing values, and infinities as text.
    present = [float(value) for value in values if value is not None]
    if not present:
        return "–"
    middle, low, high = (_number(float(value)) for value in (np.median(present), min(present), max(present)))
    return f"{middle} [{low}, {high}]" if len(present) > 1 else middle


def _number(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 10 else f"{value:#.3g}"
    return text.replace("-", "−").replace("inf", "∞")


def main(runs: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], by: Axis = "signals"):
    """Write the numbers, the table and the plots of all runs in a directory.

    Args:
        runs: Sweep directory, or any folder that contains runs.
        out: Output directory.
        by: The field that distinguishes the columns. Only `signals` writes plots.
    """
    found = [(summarise(run), run) for run in find_runs([runs])]
    found.sort(key=lambda each: (each[0][by], each[0]["seed"]))
    out.mkdir(parents=True, exist_ok=True)
    file = out / ("balance.json" if by == "signals" else f"balance_{by}.json")
    write_json(file, [row for row, _ in found])
    write_atomically(file.with_suffix(".txt"), tabulate(json.loads(file.read_text("utf-8")), by).encode())
    first = {row["signals"]: run for row, run in reversed(found)} if by == "signals" else {}
    for signals, run in first.items():
        write_atomically(out / f"balance-{signals}.png", shrink(run))


if __name__ == "__main__":
    tyro.cli(main)
