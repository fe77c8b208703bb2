"""When to floss: a schedule sets at which training epochs to query it, and how many flossing epochs are due there.

    schedule.next_query(epoch)       the first epoch after `epoch` at which to query it, None for never
    schedule(epoch, measures)        the flossing epochs due before the training step of `epoch`

Epochs count from 1. `measures` maps names to the latest values, from the previous training epoch: `loss`, the other
metrics of the loss function (such as `accuracy`), `gradient_norm/<array>`, `exponents`. Before the first training
epoch it holds only `exponents`. [`train`][] ends a chunk before each query, so the measures are up to date.
"""

from collections.abc import Callable
from functools import partial

from flossing._arguments import check_integer, check_positive
from flossing._schedule import NEVER, Fixed, Measures, Rule, Schedule, Sum


def never() -> Schedule:
    """No flossing."""
    return NEVER


def preflossing(epochs: int = 500) -> Schedule:
    """`epochs` flossing epochs before the first training epoch.

    Raises ValueError if `epochs` is below 0.

        schedule = fl.schedules.preflossing(300)
    """
    check_integer("epochs", epochs, least=0)
    return Fixed(epochs, 1, 1, 1)


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
    return Fixed(epochs, start, every, blocks)


def rule(function: Callable[[int, Measures], int], *, every: int = 100, preflossing: int = 0) -> Schedule:
    """Your own rule: `function(epoch, measures) -> flossing epochs due`, queried after every `every` training epochs.

    `preflossing`: flossing epochs before the first training epoch. Raises ValueError for numbers out of range.

        schedule = fl.schedules.rule(lambda epoch, measures: 50 if measures["accuracy"] < 0.6 else 0, every=200)
    """
    if not callable(function):
        raise ValueError(f"function must be a function (epoch, measures), got function={function!r}")
    check_integer("every", every, least=1)
    check_integer("preflossing", preflossing, least=0)
    return Rule(function, every, preflossing)


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


def sum_schedules(*schedules: Schedule) -> Schedule:
    """Combine schedules: the flossing epochs due are the sum of theirs.

    Raises ValueError for anything but schedules of this module.

        schedule = fl.schedules.sum_schedules(fl.schedules.preflossing(), fl.schedules.interflossing(50, every=200))
    """
    for each in schedules:
        if not isinstance(each, Schedule):
            raise ValueError(f"schedules must be those of flossing.schedules, got {each!r}")
    return Sum(schedules)
