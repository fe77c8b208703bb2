"""The library's cells and tasks by the names that configurations use."""

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
}
"""Cells, each made as `cell(units, inputs, key=key)`."""

TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task
    for task in (tasks.DelayedCopy, tasks.TemporalXOR, tasks.TemporalParity, tasks.SpatialXOR, tasks.CopyMemory,
                 tasks.Adding, tasks.Digits)
}  # fmt: skip
"""Tasks by the names of their classes."""
