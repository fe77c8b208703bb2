"""Gradient flossing in one call: pull Lyapunov exponents to a target by gradient descent on leaves of a model."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from flossing._arguments import CLIP
from flossing._checks import check_integer, check_key
from flossing._messages import chaos_message, warn
from flossing._progress import Progress, progress_note
from flossing._training.chunk import FlossingEpoch, check_record, run_flossing
from flossing._training.epoch import Flossing, FlossingRecord, FlossingState
from flossing._training.leaves import same_structure
from flossing._types import RandomKey
from flossing._views import describe_history, history_frame
from flossing.losses import Loss

Model = TypeVar("Model", bound=PyTree)


class FlossingHistory(NamedTuple):
    """The measurements of a flossing phase, one row per epoch, taken before that epoch's update; NumPy arrays.

    - `loss` (epochs,); `exponents` (epochs, k), or (epochs, B, k) with B sequences, per step, natural logarithm;
      `gradient_norm` (epochs,), Euclidean, over all flossed leaves; `interval` (epochs,), the steps between
      reorthonormalisations.
    - `state`: pass it to the next `floss` to keep the optimiser's moments and the interval.
    """

    loss: np.ndarray
    exponents: np.ndarray
    gradient_norm: np.ndarray
    interval: np.ndarray
    state: FlossingState

    def __repr__(self) -> str:
        return describe_history(self)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row per epoch, from 1: loss, gradient_norm, interval, exponent_1 ... exponent_k."""
        return history_frame(self)


def floss(
    model: Model,
    inputs: Any,
    *,
    state: Any = None,
    key: RandomKey | None = None,
    k: int | None = None,
    batched: bool | None = None,
    lengths: Any = None,
    epochs: int = 500,
    window: int | None = None,
    transient: int | None = None,
    interval: int | Literal["auto"] = "auto",
    tolerance: float | None = None,
    rematerialise: bool | None = None,
    target: ArrayLike = 0.0,
    loss: Loss | None = None,
    basis: ArrayLike | None = None,
    step: Callable | None = None,
    where: Callable | None = None,
    project: Callable | None = None,
    optimiser: optax.GradientTransformation | None = None,
    clip: float | None = CLIP,
    flossing_state: FlossingState | None = None,
    chunk: int = 50,
    callback: Callable[[int, Any, FlossingRecord], Any] | None = None,
    report: bool = True,
) -> tuple[Model, FlossingHistory]:
    """Floss `model`: take `epochs` gradient steps on the flossing loss, at any point of your training.

    **Arguments:**

    - `model`, `step`: as in [`lyapunov_spectrum`][]; `model` is a cell, or any pytree of parameters with
      `step(model, state, input) -> state`.
    - `inputs`: a sequence (leading time axis) used in every epoch; or a function of a key that draws a fresh one,
      called with the epoch folded into `key`; or `None` for an autonomous system. With a batch, leaves have shape
      (B, T, ...), and the loss is the mean over sequences.
    - `state`: the initial state of each epoch: an array or pytree, or a function of the model; the model's zero state
      by default. Random keys in it are folded with the epoch, so that noise is fresh in each.
    - `batched`, `lengths`: as in [`lyapunov_spectrum`][]; `lengths` may also be a function of the same key as `inputs`.
    - `key`: draws the initial basis (the same in every epoch) and, folded, the inputs; `jax.random.key(0)` by default.
    - `k`: the number of exponents to floss, 1 to N; all by default.
    - `epochs`: the number of flossing epochs, at least 1.
    - `window`: the number of steps to run, from the start of the sequence; all by default, required if `inputs=None`.
    - `transient`: steps of the window left out of the average; `10 + ceil(window / 10)` by default, at most half.
    - `interval`: steps between reorthonormalisations. `"auto"` adapts it to the network: the longest interval that
      keeps the gradient within `tolerance` of that with QR after every step. It starts at 1, is chosen again every ten
      epochs, and grows only if that makes epochs at least 10 % cheaper.
    - `tolerance`: relative, in the 2-norm, for `interval="auto"`; 1e-3 in float32 and 1e-9 in float64 by default.
    - `rematerialise`: recompute parts of the forward pass in the reverse pass, so that memory grows with the square
      root of the window. By default only if the arrays would fill half of the memory. `Flossing.loss` can then be
      differentiated in reverse mode only, and only once.
    - `target`: the target exponents, per step: a number for all, or one for each (k,).
    - `loss`: `loss(measured) -> scalar`, a function of what an epoch measures, [`losses.Measured`][]. By default
      [`losses.KeepAndWrite`][]: the exponents near their target, and the last inputs readable from the state.
      [`losses.exponents`][] is the loss of the paper, the exponents alone.
    - `basis`: the initial basis (N, k), instead of one drawn with `key`.
    - `where`: the leaves to floss, `where(model) -> leaf or tuple of leaves`. By default all floating arrays, also
      constants such as time constants and signs, if they are arrays of the model.
    - `project`: `project(model) -> model`, applied after every update to keep constraints, such as a mask of synapses
      or the signs of Dale's law.
    - `optimiser`: any optax `GradientTransformation`, also one that uses the loss; Adam(3e-3) by default.
    - `clip`: the largest 2-norm of the gradient, over all leaves together, that the optimiser receives; `None` for no
      limit, as in the paper. Without clipping, a single gradient spike, such as random networks produce, slows Adam
      for hundreds of epochs. An optimiser that searches along a line, such as L-BFGS, needs `None`.
    - `flossing_state`: the state of an earlier call, `history.state`; a new one by default. Pass another `key` with it,
      or the inputs of the earlier call are drawn again.
    - `chunk`: epochs between two calls of `callback(epochs_done, model, record)`, where `record`, a
      [`FlossingRecord`][], holds the chunk's epochs.
    - `report`: print once what is flossed, names and shapes; and, in long calls, show progress on stderr: what an epoch
      costs, a bar on a terminal, a line every ten seconds elsewhere.

    Warns once if the orbit is chaotic and the window so long that the gradient means nothing.

    **Returns:** the flossed model and a [`FlossingHistory`][]. Later calls with equal functions and shapes reuse the
    compiled loop; functions are equal if they have the same code and read equal values, or the same arrays.

    **Raises:** `ValueError` as `lyapunov_spectrum` does; `FloatingPointError`, naming the epoch (from 1) and the
    reason, when an exponent or the gradient is not finite. The model passed in never changes.

    **Source:** Engelken (NeurIPS 2023), section 3 and Algorithm 1.

        cell, history = fl.floss(cell, inputs, k=16, window=60, epochs=100)
        print(history.exponents[-1])
    """
    check_key("key", key)
    basis_key, inputs_key = jax.random.split(jax.random.key(0) if key is None else key)
    check_integer("epochs", epochs, least=1)
    check_integer("chunk", chunk, least=1)
    flossing = Flossing(
        model,
        inputs,
        state=state,
        key=basis_key,
        basis=basis,
        k=k,
        batched=batched,
        lengths=lengths,
        window=window,
        transient=transient,
        interval=interval,
        tolerance=tolerance,
        rematerialise=rematerialise,
        target=target,
        loss=loss,
        step=step,
        where=where,
        project=project,
        optimiser=optimiser,
        clip=clip,
    )
    fresh = flossing.init(model)
    flossing_state = fresh if flossing_state is None else flossing_state
    if not isinstance(flossing_state, FlossingState):
        got = type(flossing_state).__name__
        raise ValueError(
            f"flossing_state must be a FlossingState, such as history.state of an earlier call, got a {got}"
        )
    if not same_structure(flossing_state.opt_state, fresh.opt_state):
        raise ValueError("flossing_state must come from a call with the same model, where and optimiser, got another")
    if report:
        print(flossing.flossed)
    update = FlossingEpoch(flossing, inputs_key)
    records, warned = [], False
    with Progress("floss", epochs, shown=report) as progress:

        def watch(done: int, record: FlossingRecord):
            progress.update(done, progress_note(record.loss[-1], record.exponents[-1]))

        for first in range(0, epochs, chunk):
            count = min(chunk, epochs - first)
            run = run_flossing(update, model, flossing_state, first, count, capacity=chunk, watch=watch)
            model, flossing_state, record = run
            check_record(record, first + 1, flossing)
            records.append(record)
            if not warned and (message := chaos_message(np.asarray(record.exponents), flossing.window)):
                warn(message)
                warned = True
            if callback is not None:
                callback(first + count, model, record)
    values, exponents, gradient_norm, _, intervals = (np.concatenate(x) for x in zip(*records, strict=True))
    return model, FlossingHistory(values, exponents, gradient_norm, intervals, flossing_state)
