"""Gradient flossing of torch modules: any optimiser of torch.optim pulls their exponents to a target."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing._arguments import CLIP, LEARNING_RATE, check_integer, check_limits
from flossing._messages import SUBSPACE_MESSAGE, chaos_message, warn
from flossing._progress import Progress, progress_note
from flossing._tangent.interval import ADAPT_EVERY, longer_interval, shorter_interval
from flossing._views import describe_history, history_frame
from flossing.pytorch._arguments import check_transient, own_transient
from flossing.pytorch._epoch import describe_flossed, entering, prepare, select_parameters, update
from flossing.pytorch._reading import read_system
from flossing.pytorch._subspace import is_still_invariant
from flossing.pytorch._surroundings import in_own_surroundings
from flossing.pytorch._system import Engine, System
from flossing.pytorch.losses import Loss


class FlossingState(NamedTuple):
    """The state passed from one flossing phase to the next: the optimiser with its moments, and the interval."""

    optimiser: torch.optim.Optimizer
    interval: int


class FlossingRecord(NamedTuple):
    """The measurements of some flossing epochs, each before its update; fields (epochs,) as in `FlossingHistory`.

    `spread_ratio` (epochs, factors): the spread of blocks of 1, 2, 4, ..., 32 times `interval`, relative to the limit
    of the tolerance.
    """

    loss: Float[Tensor, " epochs"]
    exponents: Float[Tensor, "epochs ... k"]
    gradient_norm: Float[Tensor, " epochs"]
    spread_ratio: Float[Tensor, "epochs factors"]
    interval: Int[Tensor, " epochs"]


class FlossingHistory(NamedTuple):
    """The measurements of a flossing phase, one row per epoch, taken before that epoch's update; tensors on the CPU.

    - `loss` (epochs,); `exponents` (epochs, k), or (epochs, B, k) with B sequences, per step, natural logarithm;
      `gradient_norm` (epochs,), Euclidean, over all flossed parameters; `interval` (epochs,), the steps between
      reorthonormalisations.
    - `state`: pass it to the next `floss` to keep the optimiser's moments and the interval.
    """

    loss: Float[Tensor, " epochs"]
    exponents: Float[Tensor, "epochs ... k"]
    gradient_norm: Float[Tensor, " epochs"]
    interval: Int[Tensor, " epochs"]
    state: FlossingState

    def __repr__(self) -> str:
        return describe_history(self)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row per epoch, from 1: loss, gradient_norm, interval, exponent_1 ... exponent_k."""
        return history_frame(self)


class _Epoch(NamedTuple):
    loss: float
    exponents: Tensor
    gradient_norm: float
    spread_ratio: np.ndarray
    interval: int


@in_own_surroundings
def floss(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    generator: torch.Generator | None = None,
    k: int | None = None,
    epochs: int = 500,
    window: int | None = None,
    transient: int | None = None,
    interval: int | Literal["auto"] = "auto",
    tolerance: float | None = None,
    target: Any = 0.0,
    loss: Loss | None = None,
    basis: Any = None,
    step: Callable | None = None,
    batched: bool | None = None,
    lengths: Any = None,
    parameters: Iterable[Tensor] | None = None,
    optimiser: torch.optim.Optimizer | Callable[[list], torch.optim.Optimizer] | None = None,
    clip: float | None = CLIP,
    flossing_state: FlossingState | None = None,
    chunk: int = 50,
    callback: Callable[[int, Any, FlossingRecord], Any] | None = None,
    project: Callable[[Any], Any] | None = None,
    report: bool = True,
    engine: Engine = "auto",
) -> FlossingHistory:
    """Floss a recurrent network in place: `epochs` steps of an optimiser on the flossing loss.

    Call it at any point of your training. Afterwards the gradients of the flossed parameters are None.

    **Arguments:**

    - `model`, `state`, `generator`, `k`, `basis`, `step`, `batched`, `engine`: as for
      [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]. Each epoch starts from `state`, which may also be a
      function without arguments that returns it, called after `inputs`.
    - `inputs`: a sequence, or a batch, used in every epoch, as for `lyapunov_spectrum`; or a function without arguments
      that returns new inputs for each epoch; or None for an autonomous system.
    - `epochs`: the number of flossing epochs, at least 1.
    - `window`: the number of steps to run, from the start of the sequence; all by default, required if `inputs` is
      None.
    - `transient`: steps of the window left out of the average; `10 + ceil(window / 10)` by default, at most half.
    - `interval`: steps between reorthonormalisations. `"auto"` adapts it to the network: the longest interval that
      keeps the gradient within `tolerance` of that with QR after every step. It is 1 in the first epoch, is chosen
      again after it and after every ten, and grows only if that makes epochs at least 10 % cheaper.
    - `tolerance`: relative, in the 2-norm, for `interval="auto"`; 1e-3 in float32 and 1e-9 in float64 by default.
    - `target`: the target exponents, per step: a number for all, or one for each (k,).
    - `loss`: `loss(measured) -> scalar`, a function of what an epoch measures, `losses.Measured`. By default
      `losses.KeepAndWrite()`: the exponents near their target, and the last inputs readable from the state.
      `losses.exponents` is the loss of the paper, the exponents alone.
    - `lengths`: as for `lyapunov_spectrum`; `inputs` may also return a `PackedSequence`.
    - `parameters`: the parameters to floss; by default all parameters of the module that require a gradient. Required
      for a step that is a function.
    - `optimiser`: a class or function that creates an optimiser from a list of parameters, such as
      `functools.partial(torch.optim.Adam, lr=1e-2)`, by default Adam with a learning rate of 3e-3; or an existing
      optimiser. An existing optimiser updates only the flossed parameters that it holds, and the gradients of all its
      parameters are cleared.
    - `clip`: the largest 2-norm of the gradient, over all parameters together, that the optimiser receives; `None` for
      no limit, as in the paper. Without clipping, a single gradient spike, as random networks produce, slows Adam for
      hundreds of epochs.
    - `flossing_state`: the state of an earlier call, `history.state`, whose optimiser and interval are used.
    - `chunk`: epochs between two calls of `callback(epochs_done, model, record)`, where `record`, a
      [`FlossingRecord`][flossing.pytorch.FlossingRecord], holds the chunk's epochs.
    - `project`: `project(model)`, called without gradients after every update; it restores constraints in place, such
      as a mask of synapses or the signs of Dale's law.
    - `report`: print once what is flossed, names and shapes; and, in long calls, show progress on stderr: what an epoch
      costs, a bar on a terminal, a line every ten seconds elsewhere.

    **Returns:** a [`FlossingHistory`][flossing.pytorch.FlossingHistory]. Hooks on parameters are called as in any
    backward pass. The compiled code of `engine="jax"` is reused in later epochs and calls with the same shapes.

    **Raises:** `ValueError` as `lyapunov_spectrum` does; `FloatingPointError`, naming the epoch (from 1) and the
    exponent, when an exponent or the gradient is infinite or NaN; the parameters are then those before that epoch.

    **Source:** Engelken (NeurIPS 2023), section 3 and Algorithm 1.

        history = flt.floss(torch.nn.GRU(3, 64), torch.randn(200, 3), k=16, window=60, epochs=100)
        print(history.exponents[-1])
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("floss must be called outside of torch.inference_mode, which records no gradients")
    check_integer("epochs", epochs, least=1)
    check_integer("chunk", chunk, least=1)
    check_limits(interval, tolerance, clip)
    if flossing_state is not None:
        if not isinstance(flossing_state, FlossingState):
            legal, got = "a FlossingState, such as history.state of an earlier call", type(flossing_state).__name__
            raise ValueError(f"flossing_state must be {legal}, got a {got}")
        optimiser = flossing_state.optimiser
    adam = functools.partial(torch.optim.Adam, lr=LEARNING_RATE)
    flossed, optimiser = select_parameters(model, parameters, adam if optimiser is None else optimiser)

    def read(trial: bool) -> System:
        sequence = _next(inputs) if callable(inputs) else inputs
        options = {
            "state": state() if callable(state) else state,
            "step": step,
            "batched": batched,
            "lengths": lengths,
            "engine": engine,
        }
        with torch.enable_grad():  # weights may be computed when they are read
            return read_system(model, sequence, steps=window, steps_name="window", trial=trial, **options)

    system = read(trial=True)
    length, batch = system.length, system.batch
    own = own_transient(transient, length)
    chosen = {"k": k, "generator": generator, "basis": basis, "transient": transient, "target": target}
    objective, fields = prepare(system, model, **chosen, tolerance=tolerance, loss=loss)
    used = entering(system, flossed)
    if report:
        print(describe_flossed(model, flossed, used))
    probes = torch.Generator().manual_seed(0) if generator is None else generator

    warned = False
    now, ratios, records = _first_interval(interval, flossing_state), [], []
    progress = Progress("floss", epochs, shown=report)
    with progress:
        for epoch in range(1, epochs + 1):
            system = read(trial=False) if epoch > 1 else system
            if system.length < length:
                raise ValueError(
                    f"inputs must have the {length} steps of the window in every epoch, got {system.length}"
                )
            if system.batch != batch:
                raise ValueError(
                    f"inputs must have {batch} sequences in every epoch, as in the first, got {system.batch}"
                )
            check_transient(own, transient, length, system.lengths, "window")
            system = replace(system.start(length), **fields)
            if epoch > 1 and system.subspace is not None and not is_still_invariant(system):
                raise FloatingPointError(f"flossing epoch {epoch}: {SUBSPACE_MESSAGE}")
            seed = int(torch.randint(2**31, (), generator=probes, device=probes.device))
            of_epoch = objective._replace(seed=seed)
            value, exponents, ratio = of_epoch(system, now)
            while interval == "auto" and (shorter := shorter_interval(now, ratio[None])) < now:
                now, ratios = shorter, []  # ratios are in units of the interval, so those before no longer count
                value, exponents, ratio = of_epoch(system, now)

            def again(of_epoch=of_epoch, system=system, now=now) -> Tensor:
                return of_epoch(system, now)[0]

            norm = update(value, exponents, again, flossed, optimiser, clip, epoch, now)
            if project is not None:
                with torch.no_grad():
                    project(model)
            records.append(_Epoch(value.item(), exponents.detach().cpu(), norm, ratio, now))
            ratios.append(ratio)
            progress.update(epoch, progress_note(records[-1].loss, records[-1].exponents))
            if not warned and (message := chaos_message(records[-1].exponents.numpy(), length)):
                warn(message)
                warned = True
            if interval == "auto" and (epoch == 1 or epoch % ADAPT_EVERY == 0):
                now, ratios = longer_interval(now, np.stack(ratios), length), []
            if callback is not None and (epoch % chunk == 0 or epoch == epochs):
                callback(epoch, model, _stacked(records[(epoch - 1) // chunk * chunk :], objective.basis.dtype))
    values, exponents, norm, _, intervals = _stacked(records, objective.basis.dtype)
    return FlossingHistory(values, exponents, norm, intervals, FlossingState(optimiser, now))


def _next(inputs: Callable[[], Any]) -> Any:
    """The inputs of the next epoch; ValueError if a loader has no more of them."""
    try:
        return inputs()
    except StopIteration:
        raise ValueError(
            "inputs must return a sequence in every epoch, got none from an exhausted iterator: use itertools.cycle"
        ) from None


def _first_interval(interval: int | Literal["auto"], state: FlossingState | None) -> int:
    if interval != "auto":
        return interval
    return 1 if state is None else state.interval


def _stacked(records: list[_Epoch], dtype: torch.dtype) -> FlossingRecord:
    loss, exponents, norm, ratio, interval = zip(*records, strict=True)
    loss, norm, ratio = (torch.tensor(np.asarray(x), dtype=dtype) for x in (loss, norm, ratio))
    return FlossingRecord(loss, torch.stack(exponents), norm, ratio, torch.tensor(interval))
