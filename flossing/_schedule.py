"""What a schedule is, the three kinds that `flossing.schedules` makes, and how loops query them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from flossing._arguments import check_integer

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
class Fixed:
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


NEVER = Fixed(epochs=0, first=1, every=1, blocks=0)
"""The schedule without flossing."""


@dataclasses.dataclass(frozen=True)
class Rule:
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


@dataclasses.dataclass(frozen=True)
class Sum:
    """The sum of what several schedules ask for."""

    schedules: tuple[Schedule, ...]

    def next_query(self, epoch: int, /) -> int | None:
        return min((q for each in self.schedules if (q := each.next_query(epoch)) is not None), default=None)

    def __call__(self, epoch: int, measures: Measures, /) -> int:
        return sum(checked(each(epoch, measures)) for each in self.schedules if each.next_query(epoch - 1) == epoch)

    def guaranteed(self, after: int, until: int) -> int:
        """The flossing epochs that are certain, whatever the measures, for training epochs `after + 1` to `until`."""
        return sum(guaranteed_epochs(each, after, until) for each in self.schedules)


def checked(due: Any) -> int:
    """What a schedule returned, None for 0; ValueError unless it is a number of epochs."""
    due = 0 if due is None else due
    check_integer("schedule(epoch, measures)", due, least=0)
    return int(due)


def guaranteed_epochs(schedule: Schedule, after: int, until: int) -> int:
    """The flossing epochs of training epochs `after + 1` to `until` that are certain, as far as a schedule knows."""
    guaranteed = getattr(schedule, "guaranteed", None)
    return guaranteed(after, until) if guaranteed is not None else 0


def as_schedule(schedule: Any, every: int) -> Schedule:
    """A schedule unchanged; a plain function of the epoch and the measures as a rule queried every `every` epochs."""
    if schedule is None:
        return NEVER
    if isinstance(schedule, Schedule):
        return schedule
    if callable(schedule):
        return Rule(schedule, every, preflossing=0)  # pyright: ignore[reportArgumentType]
    raise ValueError(f"schedule must be one of flossing.schedules, or a function (epoch, measures), got {schedule!r}")
