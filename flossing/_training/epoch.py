"""One flossing epoch as a pure function, and how its interval adapts."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from flossing._arguments import CLIP, LEARNING_RATE, check_limits, check_loss, default_transient
from flossing._checks import check_integer, check_key, check_leaves, is_concrete
from flossing._linalg.norm import clipped, norm_of
from flossing._runtime.interning import interned
from flossing._runtime.memory import too_large
from flossing._tangent.batch import set_up_batch
from flossing._tangent.coordinates import describe_structure
from flossing._tangent.interval import adapted_interval
from flossing._tangent.keys import with_fresh_keys
from flossing._tangent.lengths import mask_batch, masked, shifted
from flossing._tangent.problem import Problem, initial_basis
from flossing._tangent.step import read_step, zero_state
from flossing._tangent.subspace import is_still_invariant, restrict
from flossing._tangent.window import measure_window
from flossing._training.inputs import as_arrays, read_draw
from flossing._training.leaves import check_effect, check_project, describe_flossed, mask_of
from flossing._training.optimisers import read_optimiser
from flossing._types import Input, RandomKey, State
from flossing.losses import KeepAndWrite, Loss, Measured, Memory, flossing_loss


class FlossingRecord(NamedTuple):
    """The measurements of one flossing epoch, taken before its update; or of many epochs, with a leading axis.

    - `loss`, `exponents` (k,), `gradient_norm`: the flossing loss, the exponents, the norm of the gradient. With B
      sequences exponents have shape (B, k).
    - `spread_ratio`: the spread of blocks of 1, 2, 4, ..., 32 times `interval`, relative to the limit of the tolerance.
    - `interval`: the steps between reorthonormalisations.
    """

    loss: Float[Array, ""]
    exponents: Float[Array, "*B k"]
    gradient_norm: Float[Array, ""]
    spread_ratio: Float[Array, " factors"]
    interval: Int[Array, ""]


class FlossingState(eqx.Module):
    """The state passed from one epoch to the next: that of the optimiser, and the interval."""

    opt_state: PyTree
    interval: Int[Array, ""]


class Flossing(eqx.Module):
    """The settings of flossing: everything that stays the same from epoch to epoch.

    For your own loop it has two pure functions, `init` and `update`, and `adapt` for the interval. `exponents` and
    `loss` are the quantities that they measure. The arguments are those of [`floss`][].

        flossing = fl.Flossing(cell, inputs, key=jax.random.key(0), k=16, window=60)
        state, update = flossing.init(cell), eqx.filter_jit(flossing.update)
        for epoch in range(100):
            cell, state, record = update(cell, state, jax.random.key(epoch))
            state = flossing.adapt(state, record)
    """

    inputs: Any
    lengths: Any
    state: Any
    basis: Float[Array, "N k"]
    subspace: Float[Array, "N m"] | None
    target: Float[Array, "..."]
    batch_axes: tuple[int | None, int | None] | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    window: int = eqx.field(static=True)
    has_default_transient: bool = eqx.field(static=True)
    transient: int = eqx.field(static=True)
    interval: int | Literal["auto"] = eqx.field(static=True)
    tolerance: float | None = eqx.field(static=True)
    rematerialise: bool = eqx.field(static=True)
    step: Callable = eqx.field(static=True)
    where: Callable | None = eqx.field(static=True)
    project: Callable | None = eqx.field(static=True)
    loss_function: Loss = eqx.field(static=True)
    optimiser: optax.GradientTransformationExtraArgs = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)
    flossed: str = eqx.field(static=True)

    def __init__(
        self,
        model: PyTree,
        inputs: Any,
        *,
        state: Any = None,
        key: RandomKey | None = None,
        basis: ArrayLike | None = None,
        k: int | None = None,
        batched: bool | None = None,
        lengths: Any = None,
        window: int | None = None,
        transient: int | None = None,
        interval: int | Literal["auto"] = "auto",
        tolerance: float | None = None,
        rematerialise: bool | None = None,
        target: ArrayLike = 0.0,
        loss: Loss | None = None,
        step: Callable | None = None,
        where: Callable | None = None,
        project: Callable | None = None,
        optimiser: optax.GradientTransformation | None = None,
        clip: float | None = CLIP,
    ):
        """`model` is only used to check the arguments, and is not stored."""
        check_limits(interval, tolerance, clip)
        check_key("key", key)
        self.step = interned(read_step(model, step))
        self.where, self.project = interned(where), interned(project)
        if loss is not None:
            check_loss(loss, "flossing.losses", "flossing.pytorch.losses")
        self.loss_function = KeepAndWrite() if loss is None else interned(loss)
        self.optimiser = read_optimiser(optax.adam(LEARNING_RATE) if optimiser is None else optimiser)
        self.inputs = read_draw("inputs", inputs)
        given = lengths if lengths is None or callable(lengths) else np.asarray(lengths)
        self.lengths = None if given is None else read_draw("lengths", given)
        state = zero_state if state is None else state
        self.state = interned(state) if callable(state) else as_arrays("state", state)

        first = jax.random.key(0)
        sequence, start = _drawn(self.inputs, first), self._start(model, first)
        options = {"state": start, "step": step, "steps": window, "steps_name": "window"}
        batch = set_up_batch(model, sequence, batched=batched, **options)
        self.batch_size, self.batch_axes = batch.size, None if batch.size is None else batch.axes
        self.window = batch.problem.length
        self.has_default_transient = transient is None
        self.transient = default_transient(self.window) if transient is None else transient
        check_integer("transient", self.transient, least=0, most=self.window - 1, note=f" (window={self.window})")
        if self.lengths is not None:
            mask_batch(batch, _drawn(self.lengths, first), transient)  # for its errors
        self.interval, self.tolerance, self.clip = interval, tolerance, clip
        coordinates = batch.problem.coordinates
        self.basis = initial_basis(coordinates, k=k, key=key, basis=basis)
        self.subspace = None
        if basis is not None:
            self.subspace = restrict(batch.problem, basis, self.transient, batch=batch).subspace
        steps = self.window * (batch.size or 1)
        self.rematerialise = too_large(steps, self.basis) if rematerialise is None else rematerialise
        check_leaves("target", target)
        self.target = jnp.asarray(target, coordinates.dtype)
        # Called here only to raise their errors now, not in the first epoch.
        jax.eval_shape(flossing_loss, jax.ShapeDtypeStruct(self.basis.shape[1:], self.basis.dtype), self.target)
        self.check_loss(model, self.loss_function)
        if project is not None:
            check_project(project, model)
        mask = mask_of(model, self.where)
        check_effect(model, mask, batch.problem)
        self.flossed = describe_flossed(model, mask, batch.problem)

    def exponents(self, model: PyTree, key: RandomKey) -> Float[Array, "*B k"]:
        """The exponents over the window, along the inputs that `key` draws; with "auto", QR after every step."""
        return self._measure(model, key, 1 if self.interval == "auto" else self.interval)[0]

    def loss(self, model: PyTree, key: RandomKey, *, loss: Loss | None = None) -> Float[Array, ""]:
        """The flossing loss over the window, as a term of another loss; only flossed leaves have a nonzero gradient.

        `loss` replaces the one that `update` minimises.
        """
        flossed, fixed = eqx.partition(model, mask_of(model, self.where))
        fixed = jax.tree_util.tree_map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, fixed)
        model = eqx.combine(flossed, fixed)
        return self._loss(model, self.exponents(model, key), key, loss)

    def init(self, model: PyTree) -> FlossingState:
        """The state before the first epoch; the optimiser state covers the flossed leaves only."""
        opt_state = self.optimiser.init(eqx.filter(model, mask_of(model, self.where)))
        return FlossingState(
            opt_state, jnp.asarray(1 if self.interval == "auto" else min(self.interval, self.window), jnp.int32)
        )

    def update(
        self, model: PyTree, state: FlossingState, key: RandomKey
    ) -> tuple[PyTree, FlossingState, FlossingRecord]:
        """One flossing epoch -> the model, the state for the next epoch, and the measurements before the update.

        The interval is that of `state`; compiled code serves all intervals. With "auto", `adapt` chooses the next one.
        """
        flossed, fixed = eqx.partition(model, mask_of(model, self.where))
        interval = (
            jnp.minimum(state.interval, self.window)
            if self.interval == "auto"
            else jnp.asarray(min(self.interval, self.window))
        )

        def loss(flossed):
            model = eqx.combine(flossed, fixed)
            exponents, spread_ratio = self._measure(model, key, interval)
            return self._loss(model, exponents, key), (exponents, spread_ratio)

        (value, (exponents, spread_ratio)), gradient = jax.value_and_grad(loss, has_aux=True)(flossed)
        record = FlossingRecord(value, exponents, norm_of(gradient), spread_ratio, interval)
        extra = {"value": value, "grad": gradient, "value_fn": lambda flossed: loss(flossed)[0]}
        gradient = gradient if self.clip is None else clipped(gradient, self.clip)
        updates, opt_state = self.optimiser.update(gradient, state.opt_state, flossed, **extra)
        model = eqx.combine(optax.apply_updates(flossed, updates), fixed)
        model = model if self.project is None else self.project(model)
        return model, FlossingState(opt_state, state.interval), record

    def adapt(self, state: FlossingState, record: FlossingRecord) -> FlossingState:
        """`state` with the interval for the next epochs, from the spread of blocks in the last ones.

        `record` is that of one epoch, or of several on a leading axis. The interval becomes shorter if an epoch
        exceeded the tolerance (`spread_ratio[0]` above 1; rerun that epoch from its start for a gradient within the
        tolerance), and longer if that makes epochs at least 10 % cheaper. Pure, but needs concrete values: call it
        outside `jit`. Raises ValueError for traced values. With a fixed `interval` it returns `state`.
        """
        if self.interval != "auto":
            return state
        if not is_concrete((state.interval, record)):
            raise ValueError("adapt must be called outside jit, where values are concrete, got traced values")
        spread_ratio = np.atleast_2d(np.asarray(record.spread_ratio))
        interval = adapted_interval(min(int(state.interval), self.window), spread_ratio, self.window)
        return dataclasses.replace(state, interval=jnp.asarray(interval, jnp.int32))

    def _start(self, model: PyTree, key: RandomKey) -> State:
        state = self.state(model) if callable(self.state) else self.state
        return with_fresh_keys(jax.tree_util.tree_map(jnp.asarray, state), key)

    def _loss(self, model: PyTree, exponents: Float[Array, "*B k"], key: RandomKey, loss: Loss | None = None) -> Any:
        inputs, lengths = _drawn(self.inputs, key), None
        axis = slice(self.window) if self.batch_axes in (None, (0, None)) else (slice(None), slice(self.window))
        if self.lengths is not None:
            lengths = jnp.asarray(_drawn(self.lengths, key), jnp.int32)
        measured = Measured(
            exponents=exponents,
            target=self.target,
            model=model,
            inputs=jax.tree_util.tree_map(lambda s: s[axis], inputs),
            start=self._start(model, key),
            lengths=lengths,
            key=jax.random.fold_in(key, 1),
            step=self.step,
            window=self.window,
            transient=self.transient,
            batch_axes=self.batch_axes,
        )
        return (self.loss_function if loss is None else loss)(measured)

    def check_loss(self, model: PyTree, loss: Loss, *, name: str = "loss"):
        """Raise ValueError unless `loss` returns a scalar here, and has inputs to remember if it measures memory."""
        key = jax.random.key(0)
        if type(loss) not in (KeepAndWrite, Memory):  # ours return scalars
            rows = () if self.batch_size is None else (self.batch_size,)
            exponents = jax.ShapeDtypeStruct((*rows, self.basis.shape[1]), self.basis.dtype)
            value = eqx.filter_eval_shape(self._loss, model, exponents, key, loss)
            if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
                raise ValueError(f"{name} must return a scalar, got {describe_structure(value)}")
        if isinstance(loss, Memory) and not any(
            jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree_util.tree_leaves(_drawn(self.inputs, key))
        ):
            raise ValueError(
                f"{name} must have inputs to remember, got inputs without floating numbers and losses.Memory"
            )

    def _measure(
        self, model: PyTree, key: RandomKey, interval: int | Int[Array, ""]
    ) -> tuple[Float[Array, "*B k"], Float[Array, " factors"]]:
        """The exponents, and the spread ratios, those of the worst sequence."""
        inputs, start = _drawn(self.inputs, key), self._start(model, key)
        if self.batch_axes is None:
            return self._measure_one(model, start, inputs, None, interval)
        lengths = None if self.lengths is None else jnp.asarray(_drawn(self.lengths, key), jnp.int32)

        def measure(start, inputs, length):
            return self._measure_one(model, start, inputs, length, interval)

        axes = (*self.batch_axes, None if lengths is None else 0)
        exponents, ratios = jax.vmap(measure, axes)(start, inputs, lengths)
        return exponents, ratios.max(0)

    def _measure_one(
        self, model: PyTree, start: State, inputs: Input, length: Int[Array, ""] | None, interval: int | Int[Array, ""]
    ) -> tuple[Float[Array, " k"], Float[Array, " factors"]]:
        inputs, step, count = jax.tree_util.tree_map(lambda s: s[: self.window], inputs), self.step, None
        if length is not None:
            transient = None if self.has_default_transient else self.transient
            inputs, count = shifted(inputs, length, self.window, transient)
            step = masked(step)
        problem = Problem.of(model, start, inputs, step, self.window, self.subspace)
        options = {"transient": self.transient, "rematerialise": self.rematerialise, "count": count}
        exponents, ratios = measure_window(problem, self.basis, interval, self.tolerance, **options)
        if self.subspace is not None:  # flossing itself may have changed that: NaN ends it
            exponents = jnp.where(is_still_invariant(problem, self.transient), exponents, jnp.nan)
        return exponents, ratios


def _drawn(value: Any, key: RandomKey) -> Any:
    return jax.tree_util.tree_map(jnp.asarray, value(key)) if callable(value) else value
