"""Flossing inside a training loop of your own, in JAX: settings, and pure functions of a state."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from flossing._arguments import CLIP, LEARNING_RATE, check_loss, check_settings
from flossing._checks import check_leaves, is_concrete
from flossing._messages import lost_reach_message, warn
from flossing._runtime.interning import interned
from flossing._schedule import Schedule, as_schedule, checked
from flossing._spectra.gradient_reach import gradient_reach
from flossing._tangent.batch import common_size, set_up_batch
from flossing._term import FlossingTerm, check_term
from flossing._training.epoch import Flossing, FlossingState
from flossing._training.floss import floss
from flossing._training.leaves import mask_of
from flossing._training.optimisers import read_optimiser
from flossing._training.term import TermLoss
from flossing._types import RandomKey, State
from flossing.losses import Loss
from flossing.schedules import by_reach

Model = TypeVar("Model", bound=PyTree)


class FlosserState(eqx.Module):
    """What a [`Flosser`][] carries from step to step: a pytree of arrays and numbers, for any checkpoint.

    - `steps`: the calls of `update` so far; `flossing`: the optimiser's state and the interval.
    - `epochs`, `seconds`: all flossing epochs so far, and their time.
    - `reach`, `exponent_1`, `exponent_k`, `loss`: as measured last; NaN before.
    """

    flossing: FlossingState
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    reach: float = math.nan
    exponent_1: float = math.nan
    exponent_k: float = math.nan
    loss: float = math.nan

    def scalars(self) -> dict[str, float]:
        """What was measured last, as plain numbers for a logger, `flossing/reach` and so on; NaN before."""
        names = ("reach", "exponent_1", "exponent_k", "loss", "epochs", "seconds")
        return {f"flossing/{name}": _plain(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        if not isinstance(self.steps, int) or not all(isinstance(v, (int, float)) for v in self.scalars().values()):
            return eqx.tree_pformat(self)  # a tree of shapes, or traced
        numbers = ", ".join(f"{name.removeprefix('flossing/')}={value:.3g}" for name, value in self.scalars().items())
        return f"FlosserState(step {self.steps}: {numbers})"


def _plain(value: Any) -> Any:
    """A number that a checkpoint may have restored as an array; traced ones as they are."""
    return value.item() if isinstance(value, jax.Array) and is_concrete(value) else value


class _Draw(eqx.Module):
    """Sequences of a batch, drawn with a key."""

    sequences: Any
    count: int = eqx.field(static=True)

    def __call__(self, key: RandomKey) -> Any:
        size = jax.tree_util.tree_leaves(self.sequences)[0].shape[0]
        rows = jax.random.choice(key, size, (self.count,), replace=False)
        rows = rows[0] if self.count == 1 else rows
        return jax.tree_util.tree_map(lambda s: s[rows], self.sequences)


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Flosser:
    """Floss a recurrent cell in your own training loop, whenever gradients no longer reach back.

        flosser = fl.Flosser(k=32, window=60)
        state = flosser.init(model.cell)
        for batch in batches:
            model, opt_state = train_step(model, opt_state, batch)
            cell, state = flosser.update(model.cell, state, batch.inputs)
            model = eqx.tree_at(lambda m: m.cell, model, cell)

    The first `update` flosses for `preflossing` epochs. After every `every` calls it measures how much of the gradient
    reaches back over the window, [`gradient_reach`][], and flosses for `epochs` epochs if that is below `threshold`. In
    between it only counts. `init` and `due` are pure; so is `update`, but it decides in Python: call it outside `jit`.

    **Arguments:**

    - `k`, `transient`, `interval`, `tolerance`, `rematerialise`, `target`, `loss`, `step`, `where`, `project`,
      `optimiser`, `clip`: as for [`floss`][].
    - `window`: the number of steps to run, from the start of each sequence; the longest lag of the task times two is a
      good value.
    - `preflossing`, `epochs`, `every`, `threshold`: see above. `preflossing=0` for none. To floss before training, call
      `update` once before the first training step; in the example, preflossing follows that step.
    - `schedule`: a schedule of `flossing.schedules`, which replaces these four; or a function `(step, measures) ->
      flossing epochs`, called after every `every` steps, without flossing before training. `measures` holds `reach`.
    - `term`: a [`FlossingTerm`][], the settings of the term that `term()` returns and you add to your loss; none by
      default.
    - `sequences`: the number of sequences, drawn at random from the batch, of each flossing epoch and of each step with
      a term.
    - `seed`: draws these sequences, and the initial basis.
    - `report`: print once what is flossed.

    **Raises:** `ValueError` for numbers out of range; `update` raises as `floss` does.
    """

    window: int
    sequences: int
    seed: int
    report: bool
    schedule: Schedule
    flossing_term: FlossingTerm | None
    options: dict[str, Any]

    def __init__(
        self,
        *,
        window: int,
        k: int | None = None,
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
        preflossing: int = 500,
        epochs: int = 50,
        every: int = 100,
        threshold: float = 1e-3,
        schedule: Schedule | Callable[[int, Any], int] | None = None,
        term: FlossingTerm | None = None,
        sequences: int = 1,
        seed: int = 0,
        report: bool = True,
    ):
        options = {"k": k, "transient": transient, "interval": interval, "tolerance": tolerance, "target": target}
        options["clip"] = clip
        check_settings(window=window, sequences=sequences, seed=seed, **options)
        if loss is not None:
            check_loss(loss, "flossing.losses", "flossing.pytorch.losses")
        check_term(term, "flossing.losses", "flossing.pytorch.losses")
        # Made beside a schedule, too, for its errors.
        usual = by_reach(threshold=threshold, preflossing=preflossing, epochs=epochs, every=every)
        schedule = usual if schedule is None else schedule
        options |= {"rematerialise": rematerialise, "loss": loss, "step": step, "where": interned(where)}
        options["project"] = project
        # The default is made later: optimisers of optax cannot be pickled.
        options["optimiser"] = None if optimiser is None else read_optimiser(optimiser)
        for name, value in {
            "window": window,
            "sequences": sequences,
            "seed": seed,
            "report": report,
            "schedule": as_schedule(schedule, every),
            "flossing_term": term,
            "options": options,
        }.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Flosser(window={self.window}, k={self.options['k']}, sequences={self.sequences}, seed={self.seed})"

    def init(self, model: PyTree) -> FlosserState:
        """The state before the first step; the optimiser's state covers the flossed arrays of `model`."""
        check_leaves("model", eqx.filter(model, eqx.is_array))
        flossed = eqx.filter(model, mask_of(model, self.options["where"]))
        interval = 1 if self.options["interval"] == "auto" else self.options["interval"]
        optimiser = self.options["optimiser"] or read_optimiser(optax.adam(LEARNING_RATE))
        return FlosserState(FlossingState(optimiser.init(flossed), jnp.asarray(interval, jnp.int32)))

    def due(self, state: FlosserState) -> bool:
        """Whether the next `update` reads its inputs; otherwise it only counts, and `inputs` may be anything."""
        return self.schedule.next_query(state.steps) == state.steps + 1

    def update(
        self, model: Model, state: FlosserState, inputs: Any, *, initial: State = None, reach: float | None = None
    ) -> tuple[Model, FlosserState]:
        """Call this after each training step -> the model, flossed if that was due, and the state of the next step.

        - `inputs`: what the cell was given in this step, with leading axes (B, T, ...); at least `window` steps.
        - `initial`: the state that all sequences start from; the model's zero state by default.
        - `reach`: the ratio of gradient norms as you measured it yourself; by default that of [`gradient_reach`][],
          which costs a forward and a backward pass of the cell.

        Raises ValueError for arguments that do not fit, and FloatingPointError as `floss` does; `model` and `state` are
        never changed.
        """
        if not is_concrete((model, state, inputs)):
            raise ValueError("update must be called outside jit, where values are concrete, got traced values")
        if not self.due(state):
            return model, dataclasses.replace(state, steps=state.steps + 1)
        batch, start = self._batch(inputs), {"state": initial, "step": self.options["step"]}
        key = jax.random.fold_in(jax.random.key(self.seed), state.steps)
        if reach is None:
            reach = float(gradient_reach(model, batch.sequences, key=key, batched=True, **start))
        epochs = checked(self.schedule(state.steps + 1, {"reach": reach}))
        if not epochs and not math.isfinite(reach):
            warn(lost_reach_message(reach))
        state = dataclasses.replace(state, reach=reach, steps=state.steps + 1)
        return self._floss(model, state, batch, initial, key, epochs) if epochs else (model, state)

    def term(self, model: PyTree, inputs: Any, step: ArrayLike, *, initial: State = None) -> Float[Array, ""]:
        """The flossing term of the loss: a scalar to add to your own; pure, for `jit` and `grad`.

            def loss(model, batch, step):
                return task_loss(model, batch) + flosser.term(model.cell, batch.inputs, step)

        - `model`, `inputs`, `initial`: the recurrent cell, and what it is given, as for `update`.
        - `step`: the number of the training step, from 1. Pass it to compiled code as an array, `jnp.asarray(step)`:
          for each new Python number `eqx.filter_jit` compiles again.

        It runs the first `window` steps of `sequences` sequences of the batch. In steps that are not a multiple of
        `term.every` it is zero and costs nothing. Its gradient reaches the leaves that are flossed. With
        `interval="auto"` it uses a QR decomposition after every step.

        Raises ValueError without a `term`, and for arguments that do not fit. If an exponent is infinite, so is the
        term; nothing is raised, since it is traced.
        """
        if self.flossing_term is None:
            raise ValueError("term must be given to the Flosser, as term=fl.FlossingTerm(), got term=None")
        batch = self._batch(inputs)
        basis_key, term_key = jax.random.split(jax.random.key(self.seed))
        options = {"key": basis_key, "batched": batch.count > 1, "window": self.window, **self.options}
        flossing = Flossing(model, batch, state=self._start(model, batch, initial), **options)
        return TermLoss(self.flossing_term, flossing, model, term_key)(model, step)

    def _batch(self, inputs: Any) -> _Draw:
        """The first steps of each sequence, and how many sequences to draw."""
        check_leaves("inputs", inputs)
        inputs = jax.tree_util.tree_map(jnp.asarray, inputs)
        size = common_size("inputs", inputs)
        if size is None:
            raise ValueError(f"inputs must be what the model was given, with axes (B, T, ...), got {inputs!r}")
        return _Draw(jax.tree_util.tree_map(self._cut, inputs), min(self.sequences, size))

    def _start(self, model: PyTree, batch: _Draw, initial: State) -> State:
        """The state that every sequence starts from; ValueError if it is one for each."""
        options = {"state": initial, "step": self.options["step"], "steps": None, "batched": True}
        if initial is not None and set_up_batch(model, batch.sequences, **options).has_starts:
            raise ValueError("initial must be one state for all sequences, got one for each: pass one of them")
        return initial

    def _cut(self, sequences: Array) -> Array:
        if sequences.ndim < 2 or sequences.shape[1] < self.window:
            raise ValueError(
                f"inputs must have axes (B, T, ...) with at least the {self.window} steps of the window, got shape "
                f"{sequences.shape}"
            )
        return sequences[:, : self.window]

    def _floss(
        self, model: Any, state: FlosserState, batch: _Draw, initial: State, key: RandomKey, epochs: int
    ) -> tuple[Any, FlosserState]:
        since = time.perf_counter()
        model, history = floss(
            model,
            batch,
            state=self._start(model, batch, initial),
            key=key,
            batched=batch.count > 1,
            window=self.window,
            epochs=epochs,
            flossing_state=state.flossing,
            report=self.report and not state.epochs,
            **self.options,
        )
        last = history.exponents[-1].reshape(-1, history.exponents.shape[-1]).mean(0)
        return model, dataclasses.replace(
            state,
            flossing=history.state,
            epochs=state.epochs + epochs,
            seconds=state.seconds + time.perf_counter() - since,
            exponent_1=float(last[0]),
            exponent_k=float(last[-1]),
            loss=float(history.loss[-1]),
        )
