"""Training on a task, with blocks of flossing placed by a schedule.

Two optimisers, each with its own moments, take turns on one model. The state of a run is one value, `TrainingState`:
store it after a chunk, and training later resumes exactly where it stopped.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from flossing._checks import check_integer, check_key, check_leaves, check_positive
from flossing._linalg.norm import clipped, norm_of
from flossing._runtime.epochs import run_chunk
from flossing._runtime.interning import interned
from flossing._schedule import Schedule, as_schedule, checked
from flossing._term import FlossingTerm, check_term
from flossing._training.chunk import FlossingEpoch, check_record, run_flossing
from flossing._training.epoch import Flossing, FlossingState
from flossing._training.inputs import check_draw
from flossing._training.leaves import array_name, same_structure
from flossing._training.optimisers import read_optimiser
from flossing._training.term import TermLoss
from flossing._types import RandomKey

Loss = Callable[[PyTree, PyTree], tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]]
Probe = Callable[[PyTree, PyTree], Mapping[str, Array]]


def clip_by_array_norm(limit: float) -> optax.GradientTransformation:
    """Scale the gradient of each array on its own to a Frobenius norm of at most `limit`.

    This is the clipping of the reference. With `optax.clip_by_global_norm` one large gradient would shrink all others.
    Raises ValueError unless `limit` is positive.

        optimiser = optax.chain(fl.clip_by_array_norm(0.03), optax.adam(1e-3))
    """
    check_positive("limit", limit)

    return optax.stateless(lambda gradients, _: jax.tree_util.tree_map(lambda g: clipped(g, limit), gradients))


class TrainingState(eqx.Module):
    """The whole state of a run between two chunks.

    `epoch` and `flossing_epoch` count the epochs done. `queried_epoch` is the last epoch for which the schedule was
    queried, and `pending` the number of flossing epochs still due there. `measures` holds the latest values by name.
    """

    model: PyTree
    opt_state: PyTree
    flossing: FlossingState | None = None
    epoch: int = 0
    flossing_epoch: int = 0
    queried_epoch: int = 0
    pending: int = 0
    measures: dict[str, np.ndarray] = eqx.field(default_factory=dict)


class Chunk(NamedTuple):
    """What `train` yields after each chunk.

    - `kind`: the kind of the chunk's epochs, `"training"` or `"flossing"`.
    - `epochs`: their numbers, counted from 1 for each kind. A flossing chunk precedes the training epoch
      `state.epoch + 1`.
    - `metrics`: NumPy arrays by name, one row per epoch, measured before that epoch's update. Training: `loss`, the
      other metrics of the loss function, `gradient_norm/<array>` (before clipping), and the probes (NaN in epochs
      without one). Flossing: `flossing_loss`, `exponents`, `flossing_gradient_norm`, `flossing_interval`.
    - `state`: the state after the chunk; `state.measures` holds the latest metrics and the exponents.
    """

    kind: Literal["training", "flossing"]
    epochs: range
    metrics: dict[str, np.ndarray]
    state: TrainingState


def init_training(
    model: PyTree, optimiser: optax.GradientTransformation, flossing: Flossing | None = None
) -> TrainingState:
    """The state of a run before its first epoch.

    - `model`: all its floating arrays are trained.
    - `optimiser`: the one that you pass to [`train`][].
    - `flossing`: needed if you pass one to `train`, and its schedule flosses.

    Raises ValueError for a model without a floating array.

        optimiser = optax.adam(1e-3)
        state = fl.init_training(network, optimiser)
    """
    check_leaves("model", eqx.filter(model, eqx.is_array))
    trained = eqx.filter(model, eqx.is_inexact_array)
    if not jax.tree_util.tree_leaves(trained):
        raise ValueError("model must hold a floating array to train, got none")
    opt_state = read_optimiser(optimiser).init(trained)
    return TrainingState(model, opt_state, None if flossing is None else flossing.init(model))


def train(
    state: TrainingState,
    *,
    loss: Loss,
    batch: Callable[[RandomKey], PyTree],
    optimiser: optax.GradientTransformation,
    epochs: int,
    key: RandomKey | None = None,
    flossing: Flossing | None = None,
    schedule: Schedule | Callable[[int, Mapping[str, Any]], int] | None = None,
    term: FlossingTerm | None = None,
    probe: Probe | None = None,
    probe_every: int = 100,
    chunk: int = 100,
) -> Iterator[Chunk]:
    """Train `state.model` up to epoch `epochs`, with flossing by `schedule`; yields a [`Chunk`][] after each chunk.

    **Arguments:**

    - `state`: from `init_training`, or from the last `Chunk` of an earlier run, which then resumes exactly.
    - `loss`: `loss(model, batch) -> (scalar, {name: scalar})`. Its gradient is taken with respect to all floating
      arrays of the model. Both results are recorded before the update, the scalar as `loss`; no metric may have that
      name.
    - `batch`: `batch(key)` draws the batch of one epoch. Epoch e gets a key folded with e, so the data do not depend on
      `chunk`.
    - `optimiser`: for the task. Flossing has its own, in `flossing`; both keep their moments across blocks.
    - `epochs`: the number of the last training epoch.
    - `key`: the key of the data; `jax.random.key(0)` by default.
    - `flossing`: how to floss and how to measure exponents; without it no exponents are measured.
    - `schedule`: when to floss, one of [`flossing.schedules`][]; never by default. A function
      `(epoch, measures) -> flossing epochs` is queried after every `chunk` epochs.
    - `term`: a [`FlossingTerm`][], added to the task's loss in epochs that are a multiple of `term.every`. Its gradient
      reaches the leaves that `flossing` flosses. It uses QR after every step unless `flossing` has a fixed interval.
      The metrics `loss` and `gradient_norm/<array>` remain those of the task alone; `flossing_term` is the added value,
      and `flossing_term_gradient_norm` the norm of its gradient.
    - `probe`: `probe(model, gradients) -> {name: array}`, evaluated in epoch 1 and every `probe_every` epochs on the
      gradients before clipping; `probe_every=0` switches it off.
    - `chunk`: the largest number of epochs per `Chunk`. Each value compiles a loop of its own, which serves all shorter
      chunks.

    **Raises:** `ValueError` for arguments out of range; `FloatingPointError`, naming epoch and quantity, when a loss,
    gradient or exponent is no longer finite. The last yielded state is then the last good one.

    **Source:** Engelken (NeurIPS 2023), sections 3 to 5.

        for done in fl.train(state, loss=loss, batch=batch, optimiser=optimiser, epochs=1000):
            print(done.epochs[-1], done.metrics["loss"].mean())
    """
    check_integer("epochs", epochs, least=1)
    check_integer("chunk", chunk, least=1)
    check_integer("probe_every", probe_every, least=0)
    schedule = as_schedule(schedule, chunk)
    check_draw("batch", batch)
    optimiser = read_optimiser(optimiser)
    fresh = eqx.filter_eval_shape(optimiser.init, eqx.filter(state.model, eqx.is_inexact_array))
    if not same_structure(state.opt_state, fresh):
        raise ValueError(
            "state must come from init_training with this optimiser, got that of another optimiser or model"
        )
    check_key("key", key)
    key = jax.random.key(0) if key is None else key
    training_key, flossing_key, measuring_key = jax.random.split(key, 3)
    check_term(term, "flossing.losses", "flossing.pytorch.losses")
    term_loss = None
    if term is not None:
        if flossing is None:
            raise ValueError(f"flossing must be given for a term of the loss, got flossing=None and term={term!r}")
        term_loss = TermLoss(term, flossing, state.model, jax.random.fold_in(key, 3))
    training = TrainingEpoch(
        training_key, interned(loss), interned(batch), optimiser, interned(probe), probe_every, term_loss
    )

    def chunks(state: TrainingState) -> Iterator[Chunk]:
        if flossing is not None and not state.measures:
            state = _measure(state, flossing, measuring_key)
        while state.epoch < epochs:
            state = _query(state, schedule, flossing)
            if state.pending:
                assert flossing is not None
                done = _floss_chunk(state, FlossingEpoch(flossing, flossing_key), chunk)
            else:
                query = schedule.next_query(state.epoch + 1) or epochs + 1
                done = _train_chunk(state, training, min(chunk, epochs - state.epoch, query - state.epoch - 1), chunk)
            if flossing is not None:
                done = done._replace(state=_measure(done.state, flossing, measuring_key))
            yield done
            state = done.state

    return chunks(state)  # an inner generator, so that arguments are checked by this call


def _query(state: TrainingState, schedule: Schedule, flossing: Flossing | None) -> TrainingState:
    """Query the schedule before the next training epoch, if a query is due there and has not been made."""
    epoch = state.epoch + 1
    if state.queried_epoch >= epoch or schedule.next_query(state.epoch) != epoch:
        return state
    due = checked(schedule(epoch, state.measures))
    if due and flossing is None:
        raise ValueError(f"flossing must be given when the schedule asks for it, as in epoch {epoch}")
    return dataclasses.replace(state, queried_epoch=epoch, pending=due)


class TrainingEpoch(eqx.Module):
    """One training epoch in the form that `run_chunk` takes; epoch e draws its batch with `fold_in(key, e)`."""

    key: RandomKey
    loss: Loss = eqx.field(static=True)
    batch: Callable[[RandomKey], PyTree] = eqx.field(static=True)
    optimiser: optax.GradientTransformationExtraArgs = eqx.field(static=True)
    probe: Probe | None = eqx.field(static=True)
    probe_every: int = eqx.field(static=True)
    term_loss: TermLoss | None

    def __call__(self, carry, epoch):
        model, opt_state = carry
        batch = self.batch(jax.random.fold_in(self.key, epoch))

        (loss, metrics), gradients = eqx.filter_value_and_grad(self.loss, has_aux=True)(model, batch)
        norms, probed = _gradient_norms(gradients), self._probed(model, gradients, epoch)
        ours = {"loss", "flossing_term", "flossing_term_gradient_norm", *norms, *probed}
        if taken := sorted(ours & metrics.keys()):
            raise ValueError(f"loss must return metrics under names of their own, got {', '.join(taken)}")
        record = {"loss": loss, **metrics, **norms, **probed}
        total_loss = loss
        if self.term_loss is not None:
            term, more = eqx.filter_value_and_grad(self.term_loss)(model, epoch)
            total_loss, gradients = loss + term, jax.tree_util.tree_map(jnp.add, gradients, more)
            record |= {"flossing_term": term, "flossing_term_gradient_norm": norm_of(more)}
        trained, fixed = eqx.partition(model, eqx.is_inexact_array)

        def total(trained):
            model = eqx.combine(trained, fixed)
            value = self.loss(model, batch)[0]
            return value if self.term_loss is None else value + self.term_loss(model, epoch)

        extra = {"value": total_loss, "grad": gradients, "value_fn": total}
        updates, opt_state = self.optimiser.update(gradients, opt_state, trained, **extra)
        return (eqx.apply_updates(model, updates), opt_state), record

    def _probed(self, model, gradients, epoch):
        if self.probe is None or self.probe_every == 0:
            return {}
        probe = self.probe
        shapes = eqx.filter_eval_shape(probe, model, gradients)
        nothing = jax.tree_util.tree_map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
        due = (epoch % self.probe_every == 0) | (epoch == 1)
        return lax.cond(due, lambda: probe(model, gradients), lambda: nothing)


def _train_chunk(state: TrainingState, update: TrainingEpoch, count: int, capacity: int) -> Chunk:
    first = state.epoch + 1
    carry = state.model, state.opt_state
    (model, opt_state), record = run_chunk(update, carry, first, count, capacity=capacity)
    _check_finite(record, first, state.measures)
    measures = state.measures | {name: np.asarray(values[-1]) for name, values in record.items()}
    state = dataclasses.replace(state, model=model, opt_state=opt_state, epoch=state.epoch + count, measures=measures)
    return Chunk("training", range(first, first + count), record, state)


def _floss_chunk(state: TrainingState, update: FlossingEpoch, capacity: int) -> Chunk:
    assert state.flossing is not None
    first, count = state.flossing_epoch + 1, min(state.pending, capacity)
    model, flossing_state, record = run_flossing(update, state.model, state.flossing, first, count, capacity=capacity)
    check_record(record, first, update.flossing)
    metrics = {
        "flossing_loss": np.asarray(record.loss),
        "exponents": np.asarray(record.exponents),
        "flossing_gradient_norm": np.asarray(record.gradient_norm),
        "flossing_interval": np.asarray(record.interval),
    }
    state = dataclasses.replace(
        state,
        model=model,
        flossing=flossing_state,
        flossing_epoch=state.flossing_epoch + count,
        pending=state.pending - count,
    )
    return Chunk("flossing", range(first, first + count), metrics, state)


def _measure(state: TrainingState, flossing: Flossing, key: RandomKey) -> TrainingState:
    exponents = measure_exponents(flossing, state.model, jax.random.fold_in(key, state.epoch))
    return dataclasses.replace(state, measures=state.measures | {"exponents": np.asarray(exponents)})


@eqx.filter_jit
def measure_exponents(flossing: Flossing, model: PyTree, key: RandomKey) -> Float[Array, "*B k"]:
    """The exponents of `model` over the flossing window; compiled once per shape."""
    return flossing.exponents(model, key)


def _gradient_norms(gradients: PyTree) -> dict[str, Float[Array, ""]]:
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    return {f"gradient_norm/{array_name(path)}": norm_of(leaf) for path, leaf in leaves}


def _check_finite(record: Mapping[str, np.ndarray], first: int, measures: Mapping[str, np.ndarray]):
    watched = ["loss", *(name for name in record if "gradient_norm" in name or name == "flossing_term")]
    bad = {name: int(np.isfinite(record[name]).argmin()) for name in watched if not np.isfinite(record[name]).all()}
    if bad:
        name = min(bad, key=lambda name: bad[name])
        value = record[name][bad[name]]
        message = f"training epoch {first + bad[name]}: {name} is {value}, no longer finite"
        raise FloatingPointError(message + _reason(name, value.dtype, measures))


def _reason(name: str, dtype: np.dtype, measures: Mapping[str, np.ndarray]) -> str:
    """The likely reason: a lost direction, or a chaotic network, whose gradients grow like exp(lambda_1 t)."""
    if name.startswith("flossing_term"):
        return "; the step loses one of the flossed directions, or they overflow: lower k, or shorten the window"
    largest = float(np.max(measures["exponents"][..., 0])) if "exponents" in measures else 0.0
    if name == "loss" or not largest > 0:
        return ""
    steps = int(np.log(float(np.finfo(dtype).max)) / largest)
    return f"; backpropagated gradients grow like exp({largest:.3g} t), sequences of at most {steps} steps stay finite"
