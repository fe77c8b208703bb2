"""When to floss: a schedule is a pure function of the epoch and of what was last measured.

    schedule(epoch, measures) -> flossing epochs due before this epoch's training step

Epochs count from 1. `measures` maps names to the newest values (`exponents`, `loss`, ...), for schedules that
adapt.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from flossing._checks import check_integer, check_positive

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


def floss_adaptively(
    *, far: str, near: str, share: float = 1e-3, before: int = 500, epochs: int = 50, every: int = 100
) -> Schedule:
    """Preflossing, and again whenever error feedback no longer reaches back: while

        |dL/d far| <= share |dL/d near|.

    `far` and `near` name two gradient norms that [`train`][] records. `far` is that of what acts through the whole
    horizon alone, such as trained initial states ("gradient_norm/x0"); `near` that of what acts at each step, such as
    the recurrent weights ("gradient_norm/network.J"). The norms come with training at no cost, and both scale alike
    with the loss. With batches of 16 a network that cannot learn sends back a share of 1e-5 or less, one that learns
    some 1e-2 to 1e-3, so that `share` needs no tuning by task; and one that has learnt is left in peace, where a
    schedule that follows the epoch alone may floss away what was learnt.

    Larger batches want a smaller share, 4e-3 / sqrt(B): what B sequences send back to their initial states adds up like
    a random walk, but once the network learns their gradients of the weights agree, so that the share of a network
    falls with the root of B.

    `before`: flossing epochs before epoch 1. `epochs`: so many each time, after which training goes on and the rule is
    asked again `every` epochs later, for as long as it takes. The flossing window should span the longest lag
    that the task needs; twice that is a good value.
    """
    check_positive("share", share)
    check_integer("before", before, least=0)
    check_integer("epochs", epochs, least=0)
    check_integer("every", every, least=1)

    def schedule(epoch, measures):
        if epoch == 1:
            return before
        if (epoch - 1) % every:
            return 0
        recorded = sorted(name for name in measures if name.startswith("gradient_norm/"))
        if not recorded:
            return epochs  # nothing was measured yet, thus it may become due
        for name in (far, near):
            if name not in measures:
                legal = ", ".join(recorded)
                raise ValueError(f"far and near must name gradient norms that were recorded ({legal}), got {name!r}")
        return epochs if float(measures[far]) <= share * float(measures[near]) else 0

    return schedule


def join_schedules(*schedules: Schedule) -> Schedule:
    """All of them: the flossing epochs due are the sum."""
    return lambda epoch, measures: sum(schedule(epoch, measures) for schedule in schedules)
