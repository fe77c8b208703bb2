"""How a model is flossed, epoch by epoch."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from flossing._checks import check_integer, check_leaves, check_positive
from flossing._linalg.norm import clipped, norm_of
from flossing._runtime.epochs import run_chunk
from flossing._runtime.memory import too_large
from flossing._tangent.coordinates import Coordinates
from flossing._tangent.interval import longer_interval, shorter_interval
from flossing._tangent.problem import check_step, initial_basis, sequence_length
from flossing._tangent.window import measure_window
from flossing._training.leaves import mask_of
from flossing._training.loss import explain_infinite, flossing_loss
from flossing._types import Input, RandomKey, State

CLIP = 0.1
"""The largest norm of the gradient that an optimiser of flossing is given. Where a random network all but loses a
direction, the gradient has rare spikes, a hundred or a thousand times as large as it is otherwise, and Adam would take
small steps for thousands of epochs after one. Near the target, norms are smaller than this."""

LOOK = 10
"""Flossing epochs between two looks whether the interval may be longer. Flossing draws the exponents together within
tens of epochs, each of which costs twice as much at an interval of 1."""


def default_transient(window: int) -> int:
    """Steps of a flossing window that are not averaged: `10 + ceil(window / 10)` as in the reference, at most half."""
    return min(10 + math.ceil(window / 10), window // 2)


@functools.cache
def default_optimiser() -> optax.GradientTransformation:
    """Adam(1e-3, 0.9, 0.999), the reference's. One object, since compiled loops are found again by identity."""
    return optax.adam(1e-3)


def call_cell(model: Any, state: State, input: Input) -> State:
    """The step of an Equinox-style cell, `model(input, state) -> state`."""
    return model(input, state)


class FlossingRecord(NamedTuple):
    """What one flossing epoch saw, before its update.

    `strains`: how much blocks of 1, 2, 4, ..., 32 times `interval` strain the precision; 1 is what it bears.
    """

    loss: Float[Array, ""]
    exponents: Float[Array, " k"]
    gradient_norm: Float[Array, ""]
    strains: Float[Array, " factors"]
    interval: Int[Array, ""]


class FlossingState(eqx.Module):
    """What an epoch hands to the next: the optimiser's state, and the interval."""

    optimiser: optax.OptState
    interval: int = eqx.field(static=True)


class Flossing(eqx.Module):
    """How a model is flossed: all that stays the same from epoch to epoch. `floss` and `train` take their epochs here.

    A pair of pure functions on the model and its optimiser state, `init` and `update`, and the measurement they
    rest on, `exponents`. Fields: see [`floss`][], whose arguments they are.
    """

    inputs: Any
    state: Any
    basis: Float[Array, "N k"]
    target: Float[Array, "..."]
    window: int = eqx.field(static=True)
    transient: int = eqx.field(static=True)
    interval: int | Literal["auto"] = eqx.field(static=True)
    tolerance: float | None = eqx.field(static=True)
    rematerialise: bool = eqx.field(static=True)
    step: Callable = eqx.field(static=True)
    where: Callable | None = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(
        self,
        model: PyTree,
        inputs: Any,
        *,
        state: Any,
        key: RandomKey | None = None,
        basis: ArrayLike | None = None,
        k: int | None = None,
        window: int | None = None,
        transient: int | None = None,
        interval: int | Literal["auto"] = "auto",
        tolerance: float | None = None,
        rematerialise: bool | None = None,
        target: ArrayLike = 0.0,
        step: Callable = call_cell,
        where: Callable | None = None,
        optimiser: optax.GradientTransformation | None = None,
        clip: float | None = CLIP,
    ):
        """`model` serves to check the arguments against and is not kept."""
        check_leaves("model", eqx.filter(model, eqx.is_array))
        self.inputs = inputs if callable(inputs) else _as_arrays("inputs", inputs)
        self.state = state if callable(state) else _as_arrays("state", state)
        self.step, self.where = step, where
        self.optimiser = default_optimiser() if optimiser is None else optimiser
        if clip is not None:
            check_positive("clip", clip)
        self.clip = clip

        first, sequence = self.start(model), self.sequence(jax.random.key(0))
        if not jax.tree_util.tree_leaves(sequence) and window is None:
            raise ValueError("window must be given for an autonomous system (inputs=None), got window=None")
        length = sequence_length(sequence, window if sequence is None else None)
        self.window = length if window is None else window
        check_integer("window", self.window, least=1, most=length, note=f" (inputs have {length} steps)")
        self.transient = default_transient(self.window) if transient is None else transient
        check_integer("transient", self.transient, least=0, most=self.window - 1, note=f" (window={self.window})")
        if interval != "auto":
            check_integer("interval", interval, least=1, note=" or 'auto'")
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        self.interval, self.tolerance = interval, tolerance

        coordinates = Coordinates(first)
        check_step(functools.partial(step, model), coordinates, first, sequence)
        self.basis = initial_basis(coordinates, k=k, key=key, basis=basis)
        self.rematerialise = too_large(self.window, self.basis) if rematerialise is None else rematerialise
        check_leaves("target", target)
        self.target = jnp.asarray(target, coordinates.dtype)
        flossing_loss(jnp.zeros(self.basis.shape[1], coordinates.dtype), self.target)
        mask_of(model, self.where)

    def start(self, model: PyTree) -> State:
        """The state that the window starts from."""
        state = self.state(model) if callable(self.state) else self.state
        return jax.tree_util.tree_map(jnp.asarray, state)

    def sequence(self, key: RandomKey) -> Input:
        """The sequence of inputs of one epoch, of which the window is the start."""
        return jax.tree_util.tree_map(jnp.asarray, self.inputs(key)) if callable(self.inputs) else self.inputs

    def exponents(self, model: PyTree, key: RandomKey) -> Float[Array, " k"]:
        """The exponents over the window, driven by the sequence that `key` draws; with "auto", QR every step."""
        return self._measure(model, key, self._first_interval)[0]

    def loss(self, model: PyTree, key: RandomKey) -> Float[Array, ""]:
        """The flossing loss over the window, a term for another loss; its gradient enters the flossed leaves alone."""
        flossed, kept = eqx.partition(model, mask_of(model, self.where))
        frozen = jax.tree_util.tree_map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, kept)
        return flossing_loss(self.exponents(eqx.combine(flossed, frozen), key), self.target)

    def init(self, model: PyTree) -> FlossingState:
        """The state before the first epoch; the optimiser's is for the flossed leaves alone."""
        return FlossingState(self.optimiser.init(eqx.filter(model, mask_of(model, self.where))), self._first_interval)

    def update(
        self, model: PyTree, state: FlossingState, key: RandomKey
    ) -> tuple[PyTree, FlossingState, FlossingRecord]:
        """One flossing epoch -> the model, the state for the next, and what was seen before the update.

        With "auto" it keeps to the interval of `state`, which `floss` and `train` choose anew after every ten epochs.
        """
        interval = self.interval_after(state)
        model, opt_state, record = self.update_at(model, state.optimiser, key, interval)
        return model, FlossingState(opt_state, interval), record

    def update_at(
        self, model: PyTree, opt_state: optax.OptState, key: RandomKey, interval: int | Int[Array, ""]
    ) -> tuple[PyTree, optax.OptState, FlossingRecord]:
        """`update` at this interval; compiled code serves all its values."""
        flossed, kept = eqx.partition(model, mask_of(model, self.where))
        interval = jnp.asarray(interval)

        def loss(flossed):
            exponents, strains = self._measure(eqx.combine(flossed, kept), key, interval)
            return flossing_loss(exponents, self.target), (exponents, strains)

        (value, (exponents, strains)), gradient = jax.value_and_grad(loss, has_aux=True)(flossed)
        record = FlossingRecord(value, exponents, norm_of(gradient), strains, interval)
        gradient = gradient if self.clip is None else clipped(gradient, self.clip)
        updates, opt_state = self.optimiser.update(gradient, opt_state, flossed)
        return eqx.combine(optax.apply_updates(flossed, updates), kept), opt_state, record

    def interval_after(self, state: FlossingState) -> int:
        """The interval of the epoch that follows `state`: the one that was asked for, or the last that was chosen."""
        return min(state.interval, self.window) if self.interval == "auto" else self.interval

    @property
    def _first_interval(self) -> int:
        return 1 if self.interval == "auto" else self.interval

    def _measure(
        self, model: PyTree, key: RandomKey, interval: int | Int[Array, ""]
    ) -> tuple[Float[Array, " k"], Float[Array, " factors"]]:
        inputs = jax.tree_util.tree_map(lambda s: s[: self.window], self.sequence(key))
        step, start = functools.partial(self.step, model), self.start(model)
        options = {"length": self.window, "transient": self.transient, "rematerialise": self.rematerialise}
        return measure_window(step, start, inputs, self.basis, interval, self.tolerance, **options)


class FlossingEpoch(eqx.Module):
    """One epoch of flossing as the loop wants it; epoch e draws its inputs with `fold_in(key, e)`."""

    flossing: Flossing
    key: RandomKey
    interval: int | Int[Array, ""] = 1

    def __call__(self, carry, epoch):
        model, opt_state = carry
        key = jax.random.fold_in(self.key, epoch)
        model, opt_state, record = self.flossing.update_at(model, opt_state, key, self.interval)
        return (model, opt_state), record


def run_flossing(
    update: FlossingEpoch, model: PyTree, state: FlossingState, first: int, count: int, *, capacity: int
) -> tuple[PyTree, FlossingState, FlossingRecord]:
    """A chunk of flossing epochs, at intervals that the precision bears; the state is for the next chunk.

    The interval is chosen anew after every `LOOK` epochs. Such epochs that strained too much are run again from their
    start at a shorter one.
    """
    look = min(LOOK, capacity) if update.flossing.interval == "auto" else capacity
    records = []
    for start in range(first, first + count, look):
        epochs = min(look, first + count - start)
        model, state, record = _run_at_one_interval(update, model, state, start, epochs, capacity=look)
        records.append(record)
    return model, state, jax.tree_util.tree_map(lambda *parts: np.concatenate(parts), *records)


def _run_at_one_interval(
    update: FlossingEpoch, model: PyTree, state: FlossingState, first: int, count: int, *, capacity: int
) -> tuple[PyTree, FlossingState, FlossingRecord]:
    flossing, interval = update.flossing, update.flossing.interval_after(state)
    while True:
        at = dataclasses.replace(update, interval=jnp.asarray(interval))
        (end, opt_state), record = run_chunk(at, (model, state.optimiser), first, count, capacity=capacity)
        if flossing.interval != "auto":
            return end, FlossingState(opt_state, interval), record
        shorter = shorter_interval(interval, record.strains)
        if shorter == interval:
            longer = longer_interval(interval, record.strains, flossing.window)
            return end, FlossingState(opt_state, int(longer)), record
        interval = shorter


def check_record(record: FlossingRecord, first: int):
    """Raise FloatingPointError if a flossing epoch of this chunk went wrong, naming the first such epoch."""
    good = np.isfinite(record.exponents).all(1) & np.isfinite(record.gradient_norm)
    if good.all():
        return
    bad = int(good.argmin())
    exponents = np.asarray(record.exponents)[bad]
    what = "the gradient overflows" if np.isfinite(exponents).all() else explain_infinite(exponents)
    raise FloatingPointError(f"flossing epoch {first + bad}: {what}")


def _as_arrays(name: str, tree: PyTree) -> PyTree:
    check_leaves(name, tree)
    return jax.tree_util.tree_map(jnp.asarray, tree)
