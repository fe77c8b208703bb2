"""Chunks of flossing epochs at an adaptive interval."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from flossing._messages import OVERFLOW_MESSAGE, SUBSPACE_MESSAGE, infinite_exponent_message
from flossing._runtime.epochs import run_chunk
from flossing._tangent.interval import ADAPT_EVERY, shorter_interval
from flossing._training.epoch import Flossing, FlossingRecord, FlossingState
from flossing._types import RandomKey


class FlossingEpoch(eqx.Module):
    """One flossing epoch in the form that `run_chunk` takes; epoch e draws its inputs with `fold_in(key, e)`."""

    flossing: Flossing
    key: RandomKey

    def __call__(self, carry, epoch):
        model, state = carry
        model, state, record = self.flossing.update(model, state, jax.random.fold_in(self.key, epoch))
        return (model, state), record


def run_flossing(
    update: FlossingEpoch,
    model: PyTree,
    state: FlossingState,
    first: int,
    count: int,
    *,
    capacity: int,
    watch: Callable[[int, FlossingRecord], Any] | None = None,
) -> tuple[PyTree, FlossingState, FlossingRecord]:
    """Run a chunk of flossing epochs at intervals within the tolerance -> the model, the state, and the records.

    The interval is adapted every `ADAPT_EVERY` epochs. Epochs that exceed the tolerance are rerun from their start at a
    shorter one. `watch(epochs done, record)` is called whenever some of them have ended.
    """
    size = min(ADAPT_EVERY, capacity) if update.flossing.interval == "auto" else capacity
    records = []
    for start in range(first, first + count, size):
        epochs = min(size, first + count - start)
        model, state, record = _run_at_one_interval(update, model, state, start, epochs, capacity=size)
        records.append(record)
        if watch is not None:
            watch(start + epochs, record)
    return model, state, jax.tree_util.tree_map(lambda *parts: np.concatenate(parts), *records)


def _run_at_one_interval(
    update: FlossingEpoch, model: PyTree, state: FlossingState, first: int, count: int, *, capacity: int
) -> tuple[PyTree, FlossingState, FlossingRecord]:
    while True:
        (end, after), record = run_chunk(update, (model, state), first, count, capacity=capacity)
        adapted = update.flossing.adapt(after, record)
        interval = int(record.interval[0])
        if update.flossing.interval != "auto" or shorter_interval(interval, record.spread_ratio) == interval:
            return end, adapted, record
        state = dataclasses.replace(state, interval=adapted.interval)


def check_record(record: FlossingRecord, first: int, flossing: Flossing):
    """Raise FloatingPointError if a flossing epoch of this chunk is not finite, naming the first such epoch."""
    good = np.isfinite(record.exponents).reshape(len(record.loss), -1).all(1) & np.isfinite(record.gradient_norm)
    if good.all():
        return
    bad = int(good.argmin())
    exponents = np.asarray(record.exponents)[bad]
    is_finite, interval = np.isfinite(exponents).all(), int(record.interval[bad])
    reason = OVERFLOW_MESSAGE if is_finite else infinite_exponent_message(exponents, interval)
    if np.isnan(exponents).any() and flossing.subspace is not None:
        reason += f", or {SUBSPACE_MESSAGE}"
    raise FloatingPointError(f"flossing epoch {first + bad}: {reason}")
