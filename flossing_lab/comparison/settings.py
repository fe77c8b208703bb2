"""The tasks and networks compared, and the settings that all runs share."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flossing as fl


class TaskSetting(NamedTuple):
    """A task, its title in the table, and the `measure` on test data that the table reports.

    `trivial` is the value of that measure for a network that guesses or remembers nothing.
    """

    make: Callable[[], Any]
    title: str
    measure: Literal["loss", "accuracy"]
    trivial: float


TASKS = {
    "copy": TaskSetting(
        lambda: fl.tasks.CopyMemory(delay=30),
        "Copy memory, 10 symbols over a delay of 30",
        "loss",
        fl.tasks.CopyMemory(delay=30).baseline_loss,
    ),
    "adding": TaskSetting(lambda: fl.tasks.Adding(steps=60), "Adding, 60 steps", "loss", fl.tasks.Adding.baseline_loss),
    "xor": TaskSetting(
        lambda: fl.tasks.TemporalXOR(steps=100, delay=20), "Temporal XOR, lags 20 and 40", "accuracy", 0.5
    ),
    "digits": TaskSetting(lambda: fl.tasks.Digits(), "Digits, pixel by pixel", "accuracy", 0.1),
    "permuted": TaskSetting(lambda: fl.tasks.Digits(permuted=True), "Permuted digits, pixel by pixel", "accuracy", 0.1),
}


def _orthogonal(units: int, inputs: int, *, key):
    return fl.cells.VanillaRNN(units, inputs, key=key, recurrent="orthogonal")


class Kind(NamedTuple):
    """A kind of cell, `make(units, inputs, key=...)`, and the number of flossed exponents as a share of its units."""

    make: Callable[..., Any]
    share: float


NETWORKS = {
    "vanilla": Kind(fl.cells.VanillaRNN, 3 / 4),
    "vanilla, orthogonal": Kind(_orthogonal, 3 / 4),
    "leaky": Kind(fl.cells.LeakyRNN, 3 / 4),
    "GRU": Kind(fl.cells.GRU, 1 / 4),
    "LSTM": Kind(fl.cells.LSTM, 1 / 4),
}

SEEDS = (1, 2, 3, 4, 5)
"""The seeds of the table. Settings were tuned on other seeds, from 101 on."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes, epochs and step sizes, the same for every task and network.

    The flossing window is the whole sequence. `before` flossing epochs come before training, then `block` of them
    whenever the epoch is a multiple of `every`, `blocks` times.
    """

    units: int = 64
    batch: int = 32
    epochs: int = 5000
    before: int = 300
    block: int = 100
    every: int = 250
    blocks: int = 2
    learning_rate: float = 1e-3
    clip: float = 0.03
    test: int = 512


FULL = Settings()
QUICK = Settings(units=8, batch=4, epochs=12, before=40, block=2, every=5, blocks=1, test=16)
