"""Gradient flossing: pull Lyapunov exponents to a target by gradient descent on chosen leaves of a model."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from flossing._checks import check_integer, check_leaves, is_concrete
from flossing._coordinates import Coordinates
from flossing._loop import run_chunk
from flossing._lyapunov import tangent_flow
from flossing._setup import check_step, initial_basis, sequence_length
from flossing._types import Input, RandomKey, State

Model = TypeVar("Model", bound=PyTree)


def flossing_loss(exponents: Float[Array, " k"], target: ArrayLike = 0.0) -> Float[Array, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step (natural logarithm); `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and, outside `jit`, if an exponent
    is infinite; inside `jit` the loss is then infinite, and the gradient of the finite exponents stays as it is.

    **Source:** Engelken (NeurIPS 2023), section 3.
    """
    exponents = jnp.asarray(exponents)
    target = jnp.asarray(target, exponents.dtype)
    if target.shape not in ((), exponents.shape):
        raise ValueError(
            f"target must be a scalar or have shape {exponents.shape} like exponents, got shape {target.shape}"
        )
    if is_concrete(exponents) and not np.isfinite(exponents).all():
        raise ValueError(explain_infinite(np.asarray(exponents)))
    return jnp.mean(jnp.square(exponents - target))


def explain_infinite(exponents: np.ndarray) -> str:
    """What a vector of exponents that is not finite means, and what to do, in one line."""
    index = int(np.argmin(np.isfinite(exponents)))
    if np.isneginf(exponents[index]):
        return (
            f"exponents must be finite, got exponents[{index}]=-inf: the Jacobian is singular along that direction "
            f"(or the interval too long for this dtype); use k <= {index}, a shorter interval or float64"
            if index
            else "exponents must be finite, got exponents[0]=-inf: the step forgets its state"
        )
    return f"exponents must be finite, got exponents[{index}]={exponents[index]}: the orbit or its tangents overflow"


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
    """What one flossing epoch saw, before its update."""

    loss: Float[Array, ""]
    exponents: Float[Array, " k"]
    gradient_norm: Float[Array, ""]


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
    interval: int = eqx.field(static=True)
    step: Callable = eqx.field(static=True)
    where: Callable | None = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)

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
        interval: int = 1,
        target: ArrayLike = 0.0,
        step: Callable = call_cell,
        where: Callable | None = None,
        optimiser: optax.GradientTransformation | None = None,
    ):
        """`model` serves to check the arguments against and is not kept."""
        check_leaves("model", eqx.filter(model, eqx.is_array))
        self.inputs = inputs if callable(inputs) else _as_arrays("inputs", inputs)
        self.state = state if callable(state) else _as_arrays("state", state)
        self.step, self.where = step, where
        self.optimiser = default_optimiser() if optimiser is None else optimiser

        first, sequence = self.start(model), self.sequence(jax.random.key(0))
        if not jax.tree_util.tree_leaves(sequence) and window is None:
            raise ValueError("window must be given for an autonomous system (inputs=None), got window=None")
        length = sequence_length(sequence, window if sequence is None else None)
        self.window = length if window is None else window
        check_integer("window", self.window, least=1, most=length, note=f" (inputs have {length} steps)")
        self.transient = default_transient(self.window) if transient is None else transient
        check_integer("transient", self.transient, least=0, most=self.window - 1, note=f" (window={self.window})")
        check_integer("interval", interval, least=1)
        self.interval = interval

        coordinates = Coordinates(first)
        check_step(functools.partial(step, model), coordinates, first, sequence)
        self.basis = initial_basis(coordinates, k=k, key=key, basis=basis)
        self.target = jnp.asarray(target, coordinates.dtype)
        flossing_loss(jnp.zeros(self.basis.shape[1], coordinates.dtype), self.target)
        self._mask(model)

    def start(self, model: PyTree) -> State:
        """The state that the window starts from."""
        state = self.state(model) if callable(self.state) else self.state
        return jax.tree_util.tree_map(jnp.asarray, state)

    def sequence(self, key: RandomKey) -> Input:
        """The sequence of inputs of one epoch, of which the window is the start."""
        return jax.tree_util.tree_map(jnp.asarray, self.inputs(key)) if callable(self.inputs) else self.inputs

    def exponents(self, model: PyTree, key: RandomKey) -> Float[Array, " k"]:
        """The exponents over the window, driven by the sequence that `key` draws."""
        inputs = jax.tree_util.tree_map(lambda s: s[: self.window], self.sequence(key))
        spectrum = tangent_flow(
            functools.partial(self.step, model),
            self.start(model),
            inputs,
            self.basis,
            length=self.window,
            transient=self.transient,
            interval=self.interval,
        )
        return spectrum.exponents

    def init(self, model: PyTree) -> optax.OptState:
        """The optimiser's first state, for the flossed leaves alone."""
        return self.optimiser.init(eqx.filter(model, self._mask(model)))

    def update(self, model: PyTree, opt_state: optax.OptState, key: RandomKey) -> tuple[PyTree, Any, FlossingRecord]:
        """One flossing epoch -> the model, the optimiser state, and what was seen before the update."""
        flossed, kept = eqx.partition(model, self._mask(model))

        def loss(flossed):
            exponents = self.exponents(eqx.combine(flossed, kept), key)
            return flossing_loss(exponents, self.target), exponents

        (value, exponents), gradient = jax.value_and_grad(loss, has_aux=True)(flossed)
        updates, opt_state = self.optimiser.update(gradient, opt_state, flossed)
        record = FlossingRecord(value, exponents, optax.tree.norm(gradient))
        return eqx.combine(optax.apply_updates(flossed, updates), kept), opt_state, record

    def _mask(self, model: PyTree) -> PyTree:
        if self.where is None:
            mask = jax.tree_util.tree_map(eqx.is_inexact_array, model)
            if not any(jax.tree_util.tree_leaves(mask)):
                raise ValueError("model must hold a floating array to floss, got none")
            return mask
        nothing = jax.tree_util.tree_map(lambda _: False, model)
        mask = eqx.tree_at(self.where, nothing, replace_fn=lambda _: True)
        if not all(eqx.is_inexact_array(x) for x in jax.tree_util.tree_leaves(eqx.filter(model, mask))):
            raise ValueError("where must select floating arrays of the model, got a leaf that is not one")
        return mask


class FlossingEpoch(eqx.Module):
    """One epoch of flossing as the loop wants it; epoch e draws its inputs with `fold_in(key, e)`."""

    flossing: Flossing
    key: RandomKey

    def __call__(self, carry, epoch):
        model, opt_state = carry
        model, opt_state, record = self.flossing.update(model, opt_state, jax.random.fold_in(self.key, epoch))
        return (model, opt_state), record


class FlossingHistory(NamedTuple):
    """A flossing phase, epoch by epoch, each measured before that epoch's update; NumPy arrays.

    - `loss` (epochs,); `exponents` (epochs, k), per step, natural logarithm; `gradient_norm` (epochs,), Euclidean,
      over all flossed leaves.
    - `opt_state`: pass it to the next `floss` to keep the optimiser's moments.
    """

    loss: np.ndarray
    exponents: np.ndarray
    gradient_norm: np.ndarray
    opt_state: optax.OptState


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
    interval: int = 1,
    target: ArrayLike = 0.0,
    basis: ArrayLike | None = None,
    step: Callable = call_cell,
    where: Callable | None = None,
    optimiser: optax.GradientTransformation | None = None,
    opt_state: optax.OptState | None = None,
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
    - `interval`: steps between re-orthonormalisations.
    - `target`: the exponents wanted, per step: a number, or one for each (k,).
    - `basis`: the initial basis (N, k) itself, instead of one drawn with `key`.
    - `step`: `step(model, state, input) -> state`, if the model is not called as above.
    - `where`: the leaves to floss, `where(model) -> leaf or tuple of leaves`; all floating arrays by default.
    - `optimiser`: any optax `GradientTransformation`; Adam(1e-3) by default.
    - `opt_state`: the optimiser state of an earlier call, `history.opt_state`; fresh if not given.
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
        target=target,
        step=step,
        where=where,
        optimiser=optimiser,
    )
    opt_state = flossing.init(model) if opt_state is None else opt_state
    update = FlossingEpoch(flossing, inputs_key)
    carry, records = (model, opt_state), []
    for first in range(0, epochs, chunk):
        count = min(chunk, epochs - first)
        carry, record = run_chunk(update, carry, first, count, capacity=chunk)
        check_record(record, first + 1)
        records.append(record)
        if callback is not None:
            callback(first + count, carry[0], record)
    model, opt_state = carry
    loss, exponents, gradient_norm = (np.concatenate(x) for x in zip(*records, strict=True))
    return model, FlossingHistory(loss, exponents, gradient_norm, opt_state)


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
