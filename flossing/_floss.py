"""Gradient flossing: pull Lyapunov exponents to a target by gradient descent on chosen leaves of a model."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from flossing._checks import check_integer, check_leaves, check_positive
from flossing._coordinates import Coordinates
from flossing._interval import longer_interval, shorter_interval
from flossing._leaves import mask_of, same_structure
from flossing._loop import run_chunk
from flossing._loss import explain_infinite, flossing_loss
from flossing._memory import too_large
from flossing._norm import clipped, norm_of
from flossing._setup import check_step, initial_basis, sequence_length
from flossing._types import Input, RandomKey, State
from flossing._window import measure_window

Model = TypeVar("Model", bound=PyTree)

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


class FlossingHistory(NamedTuple):
    """A flossing phase, epoch by epoch, each measured before that epoch's update; NumPy arrays.

    - `loss` (epochs,); `exponents` (epochs, k), per step, natural logarithm; `gradient_norm` (epochs,), Euclidean,
      over all flossed leaves; `interval` (epochs,), the steps between re-orthonormalisations.
    - `state`: pass it to the next `floss` to keep the optimiser's moments and the interval.
    """

    loss: np.ndarray
    exponents: np.ndarray
    gradient_norm: np.ndarray
    interval: np.ndarray
    state: FlossingState


def floss(
    model: Model,
    inputs: Any,
    *,
    state: Any,
    key: RandomKey,
    k: int | None = None,
    epochs: int = 500,
    window: int | None = None,
    transient: int | None = None,
    interval: int | Literal["auto"] = "auto",
    tolerance: float | None = None,
    rematerialise: bool | None = None,
    target: ArrayLike = 0.0,
    basis: ArrayLike | None = None,
    step: Callable = call_cell,
    where: Callable | None = None,
    optimiser: optax.GradientTransformation | None = None,
    clip: float | None = CLIP,
    flossing_state: FlossingState | None = None,
    chunk: int = 50,
    callback: Callable[[int, Any, FlossingRecord], Any] | None = None,
) -> tuple[Model, FlossingHistory]:
    """Floss `model`: `epochs` steps of gradient descent on the flossing loss, between any two lines of your training.

    **Arguments:**

    - `model`: an Equinox-style cell, called as `model(input, state) -> state`, or any pytree with `step=`.
    - `inputs`: a sequence (leading time axis) used in every epoch; or a function of a key that draws a fresh one,
      called with the epoch folded into `key`; or `None` for an autonomous system.
    - `state`: where each epoch starts: an array or pytree, or a function of the model.
    - `key`: draws the initial basis (the same in every epoch) and, folded, the inputs.
    - `k`: exponents to floss, 1 to N; all by default.
    - `epochs`: flossing epochs, at least 1.
    - `window`: steps of the sequence that are used, from its start; all by default, required if `inputs=None`.
    - `transient`: steps of the window left out of the average; `10 + ceil(window / 10)` by default, at most half.
    - `interval`: steps between re-orthonormalisations. `"auto"` follows the network: as many as keep the gradient
      within `tolerance` of that with QR after every step; 1 at first, looked at after every ten epochs, and lengthened
      where epochs become a tenth cheaper.
    - `tolerance`: relative, in the 2-norm; 1e-3 in float32 and 1e-9 in float64 by default.
    - `rematerialise`: compute parts of the forward pass again in the reverse pass, so that memory grows with the
      square root of the window, not with the window. By default where the arrays would fill half of the memory. Then
      `Flossing.loss`, too, has a gradient in reverse mode alone, once.
    - `target`: the exponents wanted, per step: a number, or one for each (k,).
    - `basis`: the initial basis (N, k) itself, instead of one drawn with `key`.
    - `step`: `step(model, state, input) -> state`, if the model is not called as above.
    - `where`: the leaves to floss, `where(model) -> leaf or tuple of leaves`; all floating arrays by default.
    - `optimiser`: any optax `GradientTransformation`; Adam(1e-3) by default.
    - `clip`: the largest 2-norm of the gradient, all leaves together, that the optimiser is given; `None` for any, as
      in the paper. Without it one spike of the gradient, as random networks have them, slows Adam for long.
    - `flossing_state`: the state of an earlier call, `history.state`; fresh if not given.
    - `chunk`: epochs between two looks; `callback(epochs_done, model, record)` is then called, `record` holding
      `loss`, `exponents`, `gradient_norm` of the chunk's epochs.

    **Returns:** the flossed model and a [`FlossingHistory`][]. The compiled loop is reused by later calls with the
    same `step`, `where`, `optimiser` and input functions: define them once, outside your loop.

    **Raises:** `ValueError` as `lyapunov_spectrum` does; `FloatingPointError`, naming the epoch (from 1) and the
    exponent, when an exponent is infinite or NaN. The model that was passed in is never changed.

    **Source:** Engelken (NeurIPS 2023), section 3 and Algorithm 1.
    """
    basis_key, inputs_key = jax.random.split(key)
    check_integer("epochs", epochs, least=1)
    check_integer("chunk", chunk, least=1)
    flossing = Flossing(
        model,
        inputs,
        state=state,
        key=basis_key,
        basis=basis,
        k=k,
        window=window,
        transient=transient,
        interval=interval,
        tolerance=tolerance,
        rematerialise=rematerialise,
        target=target,
        step=step,
        where=where,
        optimiser=optimiser,
        clip=clip,
    )
    fresh = flossing.init(model)
    flossing_state = fresh if flossing_state is None else flossing_state
    if not same_structure(flossing_state.optimiser, fresh.optimiser):
        raise ValueError("flossing_state must come from a call with the same model, where and optimiser, got another")
    update = FlossingEpoch(flossing, inputs_key)
    records = []
    for first in range(0, epochs, chunk):
        count = min(chunk, epochs - first)
        model, flossing_state, record = run_flossing(update, model, flossing_state, first, count, capacity=chunk)
        check_record(record, first + 1)
        records.append(record)
        if callback is not None:
            callback(first + count, model, record)
    loss, exponents, gradient_norm, _, intervals = (np.concatenate(x) for x in zip(*records, strict=True))
    return model, FlossingHistory(loss, exponents, gradient_norm, intervals, flossing_state)


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
