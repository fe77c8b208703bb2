"""The paper's runs at each scale, with the network and epochs of the reference experiment where time allows.

Delays are the basic lag of the configuration, as in the released code. Plots and claims give the longest lag d, the
delay in the paper's text: twice the basic lag for the temporal XOR of two bits, the lag itself for the other tasks.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from flossing_lab.paper.contract import Scale
from flossing_lab.reference.config import TaskName
from flossing_lab.runs.config import Condition
from flossing_lab.sweeps.spec import Spec

TASKS: dict[TaskName, str] = {
    "copy": "Delayed copy",
    "temporal_xor": "Temporal XOR",
    "spatial_xor": "Spatial XOR of three channels",
}


NETWORKS = {"laptop": 3, "ten": 10, "paper": 20, "tiny": 2}
"""The number of networks at each scale, where a figure does not need more."""


def slug(words: str) -> str:
    """`words` as a part of a specification's name."""
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).replace(".", "_").strip("-")


class Size(NamedTuple):
    """The runs at one scale: fields shared by all runs, seeds, delays by task, and values along other axes.

    `hard` is the delay at which each task's accuracy is plotted against the epoch. `delay` and `window_delay` are the
    delays of the temporal XOR for the sweeps over k and over the window, `orthogonal` those for orthogonal recurrent
    weights, `four_bits` those for the XOR of four bits; accuracy is plotted against the epoch at the first of them.
    """

    base: dict[str, Any]
    seeds: list[int]
    delays: dict[TaskName, list[int]]
    hard: dict[TaskName, int]
    delay: int
    window_delay: int
    k: list[int]
    window: list[int]
    orthogonal: list[int]
    four_bits: list[int]


STOPPING = (
    "At scale ten, training stops early once the mean accuracy over 100 epochs reaches 0.99, or after 5000 epochs if "
    "it never reached 0.55."
)

_KEEP = {"snapshots_every": 0, "checkpoint_every": 500}  # files on disk do not affect results

SIZES: dict[Scale, Size] = {
    "laptop": Size(
        base={"epochs": 3000, **_KEEP},
        seeds=[1, 2, 3],
        delays={"copy": [20, 40, 60, 80], "temporal_xor": [10, 15, 20, 30], "spatial_xor": [10, 20, 30, 60]},
        hard={"copy": 40, "temporal_xor": 20, "spatial_xor": 20},
        delay=20,
        window_delay=30,
        k=[1, 30, 50, 65, 75, 80],
        window=[20, 55, 100, 150],
        orthogonal=[15, 20, 30],
        four_bits=[5, 3],
    ),
    "ten": Size(
        base={"epochs": 10_000, "stop_at": 0.99, "give_up_after": 5000, **_KEEP},
        seeds=list(range(1, 11)),
        delays={  # the delays that decide most come first
            "copy": [40, 20, 60, 30, 50, 10, 70],
            "temporal_xor": [20, 10, 30, 15, 25, 5, 35],
            "spatial_xor": [20, 40, 30, 60, 10, 50, 70],
        },
        hard={"copy": 40, "temporal_xor": 20, "spatial_xor": 20},
        delay=20,
        window_delay=30,
        k=[1, 30, 50, 65, 75, 80],
        window=[20, 55, 100, 150],
        orthogonal=[15, 20, 30],
        four_bits=[5, 3, 10],
    ),
    "paper": Size(
        base={"epochs": 10_000, **_KEEP},
        seeds=list(range(1, 21)),
        delays={
            "copy": list(range(10, 101, 10)),
            "temporal_xor": [5, 10, 15, 20, 25, 30, 35, 40, 50],
            "spatial_xor": [5, 10, 15, 20, 25, 30, 40, 60],
        },
        hard={"copy": 40, "temporal_xor": 20, "spatial_xor": 20},
        delay=20,
        window_delay=30,
        k=[1, 10, 20, 30, 40, 50, 60, 65, 70, 75, 80],
        window=[20, 35, 55, 75, 100, 150],
        orthogonal=[10, 15, 20, 25, 30, 35, 40],
        four_bits=[5, 3, 4, 6, 8, 10, 15],
    ),
    "tiny": Size(
        base={
            **{"units": 8, "batch": 2, "steps": 20, "flossing_steps": 30, "window": 12, "k": 4, "epochs": 30},
            **{"preflossing": 4, "interflossing": 3, "every": 10, "blocks": 1, "chunk": 15, "interval": 1},
            **{"singular_values_every": 0, **_KEEP},
        },
        seeds=[1, 2],
        delays={"copy": [2], "temporal_xor": [2], "spatial_xor": [2]},
        hard={"copy": 2, "temporal_xor": 2, "spatial_xor": 2},
        delay=2,
        window_delay=2,
        k=[2, 4],
        window=[12, 20],
        orthogonal=[2],
        four_bits=[2],
    ),
}


def spec(name: str, size: Size, base: dict[str, Any], **axes: Sequence[Any]) -> Spec:
    """A specification with these axes, seeds last, so that runs that differ only in their seeds are adjacent."""
    shared = {field: value for field, value in {**size.base, **base}.items() if field not in axes}
    fields = [{field: list(values)} for field, values in axes.items()]
    return Spec(name=name, base=shared, axes=[*fields, {"seed": size.seeds}])


def delays_spec(name: str, scale: Scale, task: TaskName, conditions: Sequence[Condition]) -> Spec:
    """One task at all its delays, under the given conditions."""
    size = SIZES[scale]
    return spec(f"{name}-{task}", size, {"task": task}, delay=size.delays[task], condition=conditions)
