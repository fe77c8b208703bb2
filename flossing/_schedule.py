"""When to floss: a schedule is a pure function of the epoch and of what was last measured.

    schedule(epoch, measures) -> flossing epochs due before this epoch's training step

Epochs count from 1. `measures` maps names to the newest values (`exponents`, `loss`, ...), for schedules that
adapt; the ones here follow the epoch alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from flossing._checks import check_integer

Schedule: TypeAlias = Callable[[int, Mapping[str, Any]], int]


def floss_never() -> Schedule:
    """No flossing: 0 epochs due, always."""
    return lambda epoch, measures: 0


def floss_before(epochs: int = 500) -> Schedule:
    """Preflossing: `epochs` flossing epochs before the first training epoch."""
    check_integer("epochs", epochs, least=0)
    return lambda epoch, measures: epochs if epoch == 1 else 0


def floss_periodically(epochs: int = 500, *, every: int = 100, blocks: int | None = 2) -> Schedule:
    """Interflossing: `epochs` flossing epochs whenever the epoch is a multiple of `every`, at most `blocks` times."""
    check_integer("epochs", epochs, least=0)
    check_integer("every", every, least=1)
    if blocks is not None:
        check_integer("blocks", blocks, least=0)

    def schedule(epoch, measures):
        number, rest = divmod(epoch, every)
        due = number >= 1 and rest == 0 and (blocks is None or number <= blocks)
        return epochs if due else 0

    return schedule


def join_schedules(*schedules: Schedule) -> Schedule:
    """All of them: the flossing epochs due are the sum."""
    return lambda epoch, measures: sum(schedule(epoch, measures) for schedule in schedules)
