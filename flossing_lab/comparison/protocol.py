"""A protocol: which tasks, networks and arms are compared, on which seeds, and with which settings."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flossing as fl
from flossing_lab.runs.reach import blocks_below


class TaskSetting(NamedTuple):
    """A task, its title in the table, and the value of a `measure` on test data at which a network has solved it."""

    make: Callable[[], Any]
    title: str
    measure: Literal["loss", "accuracy"]
    solved: float


class Kind(NamedTuple):
    """A kind of cell, `make(units, inputs, key=...)`, and the number of flossed exponents as a share of its units.

    `rate` is the step size of its training, if not that of the settings.
    """

    make: Callable[..., Any]
    share: float
    rate: float | None = None

    @property
    def described(self) -> str:
        """The kind as text that is the same in every process."""
        return describe(self.make) + ("" if self.rate is None else f", step size {self.rate:g}")


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a network is flossed: `before` epochs before training, then `blocks` blocks of `block` epochs, `every` apart.

    With this `loss`, Adam with step size `rate`, and gradients clipped to a norm of `clip`. `epochs` is the number of
    training epochs, if not that of the settings. With `threshold` flossing is adaptive: a block follows after every
    `every` epochs in which the reach of the gradient is below it, however many blocks that makes.
    """

    before: int = 0
    loss: fl.losses.Loss = fl.losses.exponents
    rate: float = 1e-3
    clip: float | None = None
    block: int = 0
    every: int = 250
    blocks: int = 0
    epochs: int | None = None
    threshold: float | None = None

    @property
    def schedule(self) -> fl.schedules.Schedule | None:
        """The schedule of flossing; None without flossing."""
        if not self.before:
            return None
        if self.threshold is not None:
            is_lost = blocks_below(self.threshold, self.block)
            return fl.schedules.rule(is_lost, every=self.every, preflossing=self.before)
        first = fl.schedules.preflossing(self.before)
        if not self.blocks:
            return first
        later = fl.schedules.interflossing(self.block, every=self.every, blocks=self.blocks)
        return fl.schedules.sum_schedules(first, later)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes, epochs and step sizes of training, the same for every task and network.

    The flossing window is the whole sequence. Gradients are clipped to a norm of `clip`, each array on its own or
    `clip_together`. With `stop`, training ends once the mean accuracy of a chunk of epochs is above it.
    """

    units: int = 64
    batch: int = 32
    epochs: int = 5000
    learning_rate: float = 1e-3
    clip: float = 0.03
    clip_together: bool = False
    stop: float | None = None
    test: int = 512


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A whole comparison; `folder` is where its results lie, below the output directory."""

    title: str
    folder: str
    tasks: Mapping[str, TaskSetting]
    networks: Mapping[str, Kind]
    arms: Mapping[str, Arm]
    seeds: tuple[int, ...]
    settings: Settings

    def recorded(self, task: str, network: str, arm: str) -> dict[str, Any]:
        """The settings that a run of this protocol records; a run with others is made again."""
        chosen = dataclasses.asdict(self.settings) | {"task": repr(self.tasks[task].make())}
        return chosen | {"network": self.networks[network].described, "flossing": self.flossing(arm)}

    def flossing(self, arm: str) -> dict[str, Any]:
        """The settings of an arm; its epochs and its threshold only if it has its own."""
        found = dataclasses.asdict(self.arms[arm]) | {"loss": describe(self.arms[arm].loss)}
        return {
            name: value for name, value in found.items() if name not in ("epochs", "threshold") or value is not None
        }

    def chosen(self, network: str, arm: str) -> Settings:
        """The settings of a run: the network may have its own step size, the arm its own number of epochs."""
        rate, epochs = self.networks[network].rate, self.arms[arm].epochs
        own = {} if rate is None else {"learning_rate": rate}
        return dataclasses.replace(self.settings, **own, **({} if epochs is None else {"epochs": epochs}))

    def quick(self) -> "Protocol":
        """A tiny version that checks whether everything works."""
        arms = {
            name: dataclasses.replace(arm, before=min(arm.before, 40), block=min(arm.block, 2), every=5,
                                      blocks=min(arm.blocks, 1), epochs=None)
            for name, arm in self.arms.items()
        }  # fmt: skip
        settings = dataclasses.replace(self.settings, units=8, batch=4, epochs=12, test=16)
        return dataclasses.replace(self, arms=arms, settings=settings)


_LATER = [("GRU", "horizon", None)]
"""Arguments of cells that are younger than committed runs, with the value that changes nothing."""


def describe(function: Any) -> str:
    """A loss, or what draws a cell with its defaults, as text that is the same in every process."""
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return repr(function)
    inner = function.func if isinstance(function, functools.partial) else function
    parameters = inspect.signature(function).parameters.values()
    said = [p for p in parameters if p.default is not p.empty and (inner.__name__, p.name, p.default) not in _LATER]
    defaults = ", ".join(f"{p.name}={p.default!r}" for p in said)
    return f"{inner.__name__}({defaults})" if defaults else inner.__name__
