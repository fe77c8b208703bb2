"""The library's cells and tasks by the names that configurations use."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flossing import cells, tasks

CELLS: dict[str, Callable[..., Any]] = {
    "tanh": cells.VanillaRNN,
    "leaky": cells.LeakyRNN,
    "gru": cells.GRU,
    "lstm": cells.LSTM,
    "dale": cells.DaleRNN,
    "lru": cells.LRU,
    "binary": cells.BinaryRNN,
    "lif": cells.LIF,
}
"""Cells, each made as `cell(units, inputs, key=key)`."""

TASKS: dict[str, Callable[..., Any]] = {
    name: task
    for name, task in vars(tasks).items()
    if isinstance(task, type) and dataclasses.is_dataclass(task) and hasattr(task, "score")
}
"""Tasks by the names of their classes: all of `flossing.tasks` that score the outputs of a network."""
