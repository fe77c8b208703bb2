"""When to floss: a schedule sets at which training epochs to query it, and how many flossing epochs are due there.

    schedule.next_query(epoch)       the first epoch after `epoch` at which to query it, None for never
    schedule(epoch, measures)        the flossing epochs due before the training step of `epoch`

Epochs count from 1. `measures` maps names to the latest values, from the previous training epoch: `loss`, the other
metrics of the loss function (such as `accuracy`), `gradient_norm/<array>`, `exponents`. Before the first training
epoch it holds only `exponents`. [`train`][] ends a chunk before each query, so the measures are up to date.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from flossing._arguments import check_integer, check_positive

Measures = Mapping[str, Any]


@runtime_checkable
class Schedule(Protocol):
    """The protocol of schedules; any object with these two methods is one."""

    def next_query(self, epoch: int, /) -> int | None:
        """The first training epoch after `epoch` at which to query the schedule; None for never again."""
        ...

    def __call__(self, epoch: int, measures: Measures, /) -> int:
        """The flossing epochs due before the training step of `epoch`."""
        ...


@dataclasses.dataclass(frozen=True)
class _Fixed:
    """Flossing at fixed training epochs: `epochs` flossing epochs at `first`, `first + every`, ..."""

    epochs: int
    first: int
    every: int
    blocks: int | None

    def next_query(self, epoch: int, /) -> int | None:
        number = max(0, -(-(epoch + 1 - self.first) // self.every))  # of the first block after `epoch`
        if not self.epochs or (self.blocks is not None and number >= self.blocks):
            return None
        return self.first + number * self.every

    def __call__(self, epoch: int, measures: Measures, /) -> int:
        return self.epochs if self.next_query(epoch - 1) == epoch else 0

    def guaranteed(self, after: int, until: int) -> int:
        """The flossing epochs that are certain, whatever the measures, for training epochs `after + 1` to `until`."""
        total, epoch = 0, self.next_query(after)
        while epoch is not None and epoch <= until:
            total, epoch = total + self.epochs, self.next_query(epoch)
        return total


def never() -> Schedule:
    """No flossing."""
    return _Fixed(0, 1, 1, 0)


def preflossing(epochs: int = 500) -> Schedule:
    """`epochs` flossing epochs before the first training epoch.

    Raises ValueError if `epochs` is below 0.

        schedule = fl.schedules.preflossing(300)
    """
    check_integer("epochs", epochs, least=0)
    return _Fixed(epochs, 1, 1, 1)


def interflossing(epochs: int = 500, *, every: int = 100, blocks: int | None = 2, start: int | None = None) -> Schedule:
    """`epochs` flossing epochs before training epochs `start`, `start + every`, ..., at most `blocks` times.

    `start` is `every` by default. Raises ValueError for numbers out of range.

        schedule = fl.schedules.sum_schedules(fl.schedules.preflossing(), fl.schedules.interflossing(50, every=200))
    """
    check_integer("epochs", epochs, least=0)
    check_integer("every", every, least=1)
    if blocks is not None:
        check_integer("blocks", blocks, least=0)
    start = every if start is None else start
    check_integer("start", start, least=1)
    return _Fixed(epochs, start, every, blocks)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Some preflossing, then a function of the epoch and the measures, queried after every `every` epochs."""

    function: Callable[[int, Measures], int]
    every: int
    preflossing: int

    def next_query(self, epoch: int, /) -> int | None:
        if epoch < 1 and self.preflossing:
            return 1
        return 1 + max(1, (epoch - 1) // self.every + 1) * self.every

    def __call__(self, epoch: int, measures: Measures, /) -> int:
        if epoch == 1:
            return self.preflossing
        return checked(self.function(epoch, measures)) if (epoch - 1) % self.every == 0 else 0

    def guaranteed(self, after: int, until: int) -> int:
        """The flossing epochs that are certain, whatever the measures, for training epochs `after + 1` to `until`."""
        return self.preflossing if after < 1 <= until else 0


def checked(due: Any) -> int:
    """What a schedule returned, None for 0; ValueError unless it is a number of epochs."""
    due = 0 if due is None else due
    check_integer("schedule(epoch, measures)", due, least=0)
    return int(due)


def rule(function: Callable[[int, Measures], int], *, every: int = 100, preflossing: int = 0) -> Schedule:
    """Your own rule: `function(epoch, measures) -> flossing epochs due`, queried after every `every` training epochs.

    `preflossing`: flossing epochs before the first training epoch. Raises ValueError for numbers out of range.

        schedule = fl.schedules.rule(lambda epoch, measures: 50 if measures["accuracy"] < 0.6 else 0, every=200)
    """
    if not callable(function):
        raise ValueError(f"function must be a function (epoch, measures), got function={function!r}")
    check_integer("every", every, least=1)
    check_integer("preflossing", preflossing, least=0)
    return _Rule(function, every, preflossing)


def adaptive(
    *, distant: str, local: str, threshold: float = 1e-3, preflossing: int = 500, epochs: int = 50, every: int = 100
) -> Schedule:
    """Preflossing, then interflossing whenever the gradient no longer reaches back, that is, while

        |dL/d distant| <= threshold |dL/d local|.

    `distant` and `local` name two gradient norms that [`train`][] records. `distant` belongs to parameters that act
    only through the whole horizon, such as trained initial states ("gradient_norm/x0"); `local` to parameters that act
    at each step, such as the recurrent weights ("gradient_norm/network.J"). Training records both norms at no extra
    cost, and both scale alike with the loss. In the reference experiment, with batches of 16, the ratio is below 1e-4
    for a network that cannot learn and about 1e-3 to 1e-2 for one that learns. The rule is meant to spare networks that
    learn, whereas a schedule that depends on the epoch alone may undo the learning.

    Larger batches need a smaller threshold, 4e-3 / sqrt(B). The gradients of B sequences with respect to their initial
    states add up like a random walk. Once the network learns, their gradients with respect to the weights agree, so the
    ratio falls as 1 / sqrt(B).

    `preflossing`: flossing epochs before epoch 1. `epochs`: flossing epochs per block; the next query follows after
    `every` more training epochs. The flossing window should span the longest lag of the task; twice that lag is a good
    value. Raises ValueError for numbers out of range.

        schedule = fl.schedules.adaptive(distant="gradient_norm/x0", local="gradient_norm/network.J")
    """
    check_positive("threshold", threshold)
    check_integer("epochs", epochs, least=0)
    due = partial(_due_by_gradients, distant=distant, local=local, threshold=threshold, epochs=epochs)
    return rule(due, every=every, preflossing=preflossing)


def _due_by_gradients(
    epoch: int, measures: Measures, *, distant: str, local: str, threshold: float, epochs: int
) -> int:
    for name in (distant, local):
        if name not in measures:
            legal = ", ".join(sorted(name for name in measures if name.startswith("gradient_norm/")))
            raise ValueError(f"distant and local must name recorded gradient norms ({legal}), got {name!r}")
    return epochs if float(measures[distant]) <= threshold * float(measures[local]) else 0


def by_reach(*, threshold: float = 1e-3, preflossing: int = 500, epochs: int = 50, every: int = 100) -> Schedule:
    """Preflossing, then interflossing while `measures["reach"]` is at most `threshold`: the rule of a [`Flosser`][].

    The reach is the norm of the gradient with respect to the state at the start of the window, divided by that with
    respect to the weights: [`gradient_reach`][] in JAX, that of your own loss in layers of PyTorch. The defaults are
    those of `adaptive`. Raises ValueError for numbers out of range.

        flosser = fl.Flosser(k=32, window=60, schedule=fl.schedules.by_reach(threshold=3e-3))
    """
    check_positive("threshold", threshold)
    check_integer("epochs", epochs, least=0)
    return rule(partial(_due_by_reach, threshold=threshold, epochs=epochs), every=every, preflossing=preflossing)


def _due_by_reach(epoch: int, measures: Measures, *, threshold: float, epochs: int) -> int:
    return epochs if measures["reach"] <= threshold else 0


@dataclasses.dataclass(frozen=True)
class _Sum:
    schedules: tuple[Schedule, ...]

    def next_query(self, epoch: int, /) -> int | None:
        return min((q for each in self.schedules if (q := each.next_query(epoch)) is not None), default=None)

    def __call__(self, epoch: int, measures: Measures, /) -> int:
        return sum(checked(each(epoch, measures)) for each in self.schedules if each.next_query(epoch - 1) == epoch)

    def guaranteed(self, after: int, until: int) -> int:
        """The flossing epochs that are certain, whatever the measures, for training epochs `after + 1` to `until`."""
        return sum(guaranteed_epochs(each, after, until) for each in self.schedules)


def sum_schedules(*schedules: Schedule) -> Schedule:
    """Combine schedules: the flossing epochs due are the sum of theirs.

    Raises ValueError for anything but schedules of this module.

        schedule = fl.schedules.sum_schedules(fl.schedules.preflossing(), fl.schedules.interflossing(50, every=200))
    """
    for each in schedules:
        if not isinstance(each, Schedule):
            raise ValueError(f"schedules must be those of flossing.schedules, got {each!r}")
    return _Sum(schedules)


def guaranteed_epochs(schedule: Schedule, after: int, until: int) -> int:
    """The flossing epochs of training epochs `after + 1` to `until` that are certain, as far as a schedule knows."""
    guaranteed = getattr(schedule, "guaranteed", None)
    return guaranteed(after, until) if guaranteed is not None else 0


def as_schedule(schedule: Any, every: int) -> Schedule:
    """A schedule unchanged; a plain function of the epoch and the measures as a rule queried every `every` epochs."""
    if schedule is None:
        return never()
    if isinstance(schedule, Schedule):
        return schedule
    if callable(schedule):
        return rule(schedule, every=every)  # pyright: ignore[reportArgumentType]
    raise ValueError(f"schedule must be one of flossing.schedules, or a function (epoch, measures), got {schedule!r}")
