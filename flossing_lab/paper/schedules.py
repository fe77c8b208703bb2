"""The flossing schedules that the figures beyond the paper compare."""

from typing import Any, NamedTuple

import numpy as np

from flossing_lab.paper.analysis.measures import SOLVED, Group, numbers
from flossing_lab.paper.contract import Scale
from flossing_lab.paper.scales import NETWORKS, SIZES
from flossing_lab.sweeps.spec import Spec

Fields = dict[str, Any]
_REFERENCE: Fields = {"condition": "before_and_during"}

SCHEDULES: dict[str, Fields] = {
    "adaptive": {"condition": "adaptive", "preflossing": 500, "every": 100},
    "whole": {"condition": "adaptive"},
    "periodic": {**_REFERENCE, "interflossing": 50, "every": 200, "blocks": 1000, "window": 100},
    "reference": _REFERENCE,
    "orthogonal_reference": {"recurrent": "orthogonal", **_REFERENCE},
    "orthogonal": {"recurrent": "orthogonal", "condition": "none"},
    "none": {"condition": "none"},
}
"""The schedules compared, as fields of the configuration. `whole` takes the defaults of its condition: k = N, 1500
preflossing epochs, and the rule checked every 25 epochs."""

ONCE: dict[str, Fields] = {"reference_long": {**_REFERENCE, "k": 80, "window": 152}}
"""Compared in the first setting alone: the reference with all directions and a window of 2 d, as `whole` has them. What
is left between the two is the adaptive rule and the number of flossing epochs."""

LABELS = {
    "none": "no flossing",
    "orthogonal": "orthogonal start, no flossing",
    "reference": "reference schedule",
    "reference_long": "reference, k = 80, window 152",
    "orthogonal_reference": "orthogonal start, reference schedule",
    "periodic": "periodic flossing",
    "adaptive": "adaptive flossing",
    "whole": "adaptive, all directions",
}
COLOURS = {
    "none": "#6b6b6b",
    "orthogonal": "#b08d57",
    "reference": "#2563b0",
    "reference_long": "#6fa8dc",
    "orthogonal_reference": "#d9822b",
    "periodic": "#2f9e6e",
    "adaptive": "#8a3fa0",
    "whole": "#d6336c",
}

GOAL_SCHEDULES = {"adaptive": "Adaptive flossing", "whole": "Adaptive flossing of all directions"}
"""The schedules with goals."""

_STOPPING: Fields = {"stop_at": 0.98, "give_up_after": 5000}
"""Early stopping, everywhere but in the first setting: well after the task is solved, or when accuracy is still at
chance long after most other runs have left it."""


class Setting(NamedTuple):
    """A point of comparison: network size, basic lags d/2, and number of seeds."""

    units: int
    delays: list[int]
    seeds: int

    @property
    def name(self) -> str:
        """A name for its runs."""
        return f"frontier-{self.units}x{'_'.join(str(2 * delay) for delay in self.delays)}"


def settings(scale: Scale) -> list[Setting]:
    """The places in running order; the first has the most networks, at d = 0.95 N, N = 80."""
    if scale == "tiny":
        return [Setting(8, [3], 2), Setting(8, [2, 4], 1)]
    many, few = max(10, NETWORKS[scale]), NETWORKS[scale]
    return [
        Setting(80, [38], many),
        Setting(40, [19], many),
        Setting(80, [10, 20, 30, 35, 40, 50], few),
        Setting(40, [10, 15, 22], few),
        Setting(160, [40, 60, 76, 88], few),
    ]


def spec_of(scale: Scale, setting: Setting, schedule: str) -> Spec:
    """The runs of one schedule in one setting."""
    longer = {} if scale == "tiny" else {"epochs": 10_000, "k": 15 * setting.units // 16}
    base = {name: value for name, value in SIZES[scale].base.items() if name not in _STOPPING}
    fields = {**base, "task": "temporal_xor", "units": setting.units, **longer}
    fields |= {**SCHEDULES, **ONCE}[schedule]
    if scale == "tiny":
        fields |= {
            name: SIZES[scale].base[name]
            for name in ("preflossing", "interflossing", "every", "blocks", "window", "k")
            if name in fields
        }
    if schedule == "whole":
        fields.pop("k")
    if setting.name != settings(scale)[0].name and scale != "tiny":
        fields |= _STOPPING
    axes = [{"delay": setting.delays}, {"seed": list(range(1, setting.seeds + 1))}]
    return Spec(name=f"{setting.name}-{schedule}", base=fields, axes=axes)


HEAD = ["N", "d", "Schedule", "Solved", "Final accuracy", "Epochs to 0.95", "Flossed (1000 steps)", "Seconds"]
"""The table's header."""


def table_row(row: Group) -> list[str]:
    """A row of the table."""
    accuracy, epochs = numbers(row["final_accuracy"]), epochs_of(row)
    return [
        str(row["units"]),
        str(row["d"]),
        LABELS[row["schedule"]],
        f"{(accuracy >= SOLVED).sum()} of {len(accuracy)}",
        f"{np.median(accuracy):.3f} ({accuracy.min():.3f} to {accuracy.max():.3f})",
        f"{epochs:.0f}" if np.isfinite(epochs) else "–",
        f"{np.median(numbers(row['flossed_steps'])) / 1000:.0f}",
        f"{np.median(numbers(row['seconds'])):.0f}",
    ]


def epochs_of(row: Group) -> float:
    return float(np.median(numbers(row["epochs_to_solve"])))
