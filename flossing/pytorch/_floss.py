"""Gradient flossing of torch modules: any optimiser of torch.optim pulls their exponents to a target."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flossing._arguments import check_integer, check_positive, default_transient
from flossing._messages import infinite_exponent_message
from flossing._tangent.interval import ADAPT_EVERY, longer_interval, shorter_interval
from flossing.pytorch._arguments import initial_basis
from flossing.pytorch._spread import spread_ratio
from flossing.pytorch._subspace import restrict
from flossing.pytorch._system import Engine, ModuleSystem, System, read_system


def flossing_loss(exponents: Float[Tensor, "... k"], target: Any = 0.0) -> Float[Tensor, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step, natural logarithm, or (B, k) for B sequences, averaged as well;
    `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and if an exponent is infinite.

    **Source:** Engelken (NeurIPS 2023), section 3.

        loss = flt.flossing_loss(flt.lyapunov_spectrum(module, inputs, k=8).exponents)
    """
    target = _target(target, exponents)
    if not torch.isfinite(exponents.detach()).all():
        raise ValueError(_explain(exponents))
    return (exponents - target).square().mean()


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


class _Epoch(NamedTuple):
    loss: float
    exponents: Tensor
    gradient_norm: float
    spread_ratio: np.ndarray
    interval: int


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
    basis: Any = None,
    step: Callable | None = None,
    batched: bool | None = None,
    parameters: Iterable[Tensor] | None = None,
    optimiser: torch.optim.Optimizer | Callable[[list], torch.optim.Optimizer] = torch.optim.Adam,
    clip: float | None = 0.1,
    flossing_state: FlossingState | None = None,
    chunk: int = 50,
    callback: Callable[[int, Any, FlossingRecord], Any] | None = None,
    engine: Engine = "auto",
) -> FlossingHistory:
    """Floss a recurrent network in place: `epochs` steps of an optimiser on the flossing loss.

    Call it at any point of your training. Afterwards the gradients of the flossed parameters are None.

    **Arguments:**

    - `model`, `state`, `generator`, `k`, `basis`, `step`, `batched`, `engine`: as for
      [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]. Each epoch starts from `state`.
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
    - `parameters`: the parameters to floss; by default all parameters of the module that require a gradient. Required
      for a step that is a function.
    - `optimiser`: a class or function that creates an optimiser from a list of parameters, such as `torch.optim.Adam`
      (the default, with its learning rate of 1e-3) or `functools.partial(torch.optim.Adam, lr=1e-2)`; or an existing
      optimiser. An existing optimiser updates only the flossed parameters that it holds, and the gradients of all its
      parameters are cleared.
    - `clip`: the largest 2-norm of the gradient, over all parameters together, that the optimiser receives; `None` for
      no limit, as in the paper. Without clipping, a single gradient spike, as random networks produce, slows Adam for
      hundreds of epochs.
    - `flossing_state`: the state of an earlier call, `history.state`, whose optimiser and interval are used.
    - `chunk`: epochs between two calls of `callback(epochs_done, model, record)`, where `record`, a
      [`FlossingRecord`][flossing.pytorch.FlossingRecord], holds the chunk's epochs.

    **Returns:** a [`FlossingHistory`][flossing.pytorch.FlossingHistory]. Hooks on parameters are called as in any
    backward pass. The compiled code of `engine="jax"` is reused in later epochs and calls with the same shapes.

    **Raises:** `ValueError` as `lyapunov_spectrum` does; `FloatingPointError`, naming the epoch (from 1) and the
    exponent, when an exponent or the gradient is infinite or NaN; the parameters are then those before that epoch.

    **Source:** Engelken (NeurIPS 2023), section 3 and Algorithm 1.

        history = flt.floss(torch.nn.GRU(3, 64), torch.randn(200, 3), k=16, window=60, epochs=100)
        print(history.exponents[-1])
    """
    check_integer("epochs", epochs, least=1)
    check_integer("chunk", chunk, least=1)
    if interval != "auto":
        check_integer("interval", interval, least=1, note=" or 'auto'")
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    if clip is not None:
        check_positive("clip", clip)
    if flossing_state is not None:
        optimiser = flossing_state.optimiser
    flossed, optimiser = _select_parameters(model, parameters, optimiser)

    def read() -> System:
        sequence = inputs() if callable(inputs) else inputs
        options = {"state": state, "step": step, "batched": batched, "engine": engine}
        with torch.enable_grad():  # weights may be computed when they are read
            return read_system(model, sequence, steps=window, steps_name="window", **options)

    system = read()
    length = system.length
    transient = default_transient(length) if transient is None else transient
    check_integer("transient", transient, least=0, most=length - 1, note=f" (window={length})")
    given, basis = basis, initial_basis(system.size, system.like, k=k, generator=generator, basis=basis)
    subspace = None if given is None else restrict(system, given).subspace
    target = _target(target, basis[0])
    objective = _Objective(basis, target, transient, tolerance)

    now, ratios, records = _first_interval(interval, flossing_state), [], []
    for epoch in range(1, epochs + 1):
        system = read() if epoch > 1 else system
        if system.length < length:
            raise ValueError(f"inputs must have the {length} steps of the window in every epoch, got {system.length}")
        system = replace(system.start(length), subspace=subspace)
        loss, exponents, ratio = objective(system, now)
        while interval == "auto" and (shorter := shorter_interval(now, ratio[None])) < now:
            now, ratios = shorter, []  # ratios are in units of the interval, so those before no longer count
            loss, exponents, ratio = objective(system, now)
        norm = _update(loss, exponents, flossed, optimiser, clip, epoch)
        records.append(_Epoch(loss.item(), exponents.detach().cpu(), norm, ratio, now))
        ratios.append(ratio)
        if interval == "auto" and (epoch == 1 or epoch % ADAPT_EVERY == 0):
            now, ratios = longer_interval(now, np.stack(ratios), length), []
        if callback is not None and (epoch % chunk == 0 or epoch == epochs):
            callback(epoch, model, _stacked(records[(epoch - 1) // chunk * chunk :], basis.dtype))
    loss, exponents, norm, _, intervals = _stacked(records, basis.dtype)
    return FlossingHistory(loss, exponents, norm, intervals, FlossingState(optimiser, now))


def _first_interval(interval: int | Literal["auto"], state: FlossingState | None) -> int:
    if interval != "auto":
        return interval
    return 1 if state is None else state.interval


def _stacked(records: list[_Epoch], dtype: torch.dtype) -> FlossingRecord:
    loss, exponents, norm, ratio, interval = zip(*records, strict=True)
    loss, norm, ratio = (torch.tensor(np.asarray(x), dtype=dtype) for x in (loss, norm, ratio))
    return FlossingRecord(loss, torch.stack(exponents), norm, ratio, torch.tensor(interval))


def _select_parameters(model: Any, parameters: Any, optimiser: Any) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """The parameters to floss, and the optimiser that steps them."""
    if parameters is None:
        if not isinstance(model, nn.Module):
            raise ValueError("parameters must be given for a step that is a function, got parameters=None")
        parameters = model.parameters()
    flossed = [p for p in parameters if p.requires_grad]
    if isinstance(optimiser, torch.optim.Optimizer):
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        flossed = [p for p in flossed if id(p) in held]
    if not flossed:
        raise ValueError("parameters must hold one that requires a gradient and that the optimiser holds, got none")
    return flossed, optimiser if isinstance(optimiser, torch.optim.Optimizer) else optimiser(flossed)


class _Objective(NamedTuple):
    """The flossing loss, the exponents and the spread ratios of a system at an interval."""

    basis: Tensor
    target: Tensor
    transient: int
    tolerance: float | None

    def __call__(self, system: System, interval: int) -> tuple[Tensor, Tensor, np.ndarray]:
        with torch.enable_grad():
            if isinstance(system, ModuleSystem) and system.is_compiled(self.basis):
                from flossing.pytorch import _jax_engine

                plan = {"transient": self.transient, "interval": interval, "tolerance": self.tolerance}
                of = (system.recurrent, system.state, system.inputs)
                loss, exponents, ratio = _jax_engine.objective(*of, self.basis, self.target, **plan)
                return loss, exponents, ratio.numpy()
            flow = system.flow(self.basis, transient=self.transient, interval=interval)
            loss = (flow.exponents - self.target).square().mean()
            growth = torch.cat([flow.transient_log_growth, flow.log_growth], dim=-2).detach()
            return loss, flow.exponents, spread_ratio(growth, self.tolerance)


def _update(
    loss: Tensor,
    exponents: Tensor,
    flossed: list[Tensor],
    optimiser: torch.optim.Optimizer,
    clip: float | None,
    epoch: int,
) -> float:
    """One step of the optimiser -> the norm of the gradient before clipping. Raises before the step if anything is not
    finite."""
    if not exponents.isfinite().all():
        raise FloatingPointError(f"flossing epoch {epoch}: {_explain(exponents)}")
    if not loss.requires_grad:
        raise ValueError("parameters must enter the step, got none that the exponents depend on")
    optimiser.zero_grad()
    loss.backward(inputs=flossed)
    gradients = [p.grad for p in flossed if p.grad is not None]
    norm = _norm(gradients)
    if clip is not None and norm > clip:
        for p in flossed:  # as optax does it; torch's own clipping adds 1e-6 to the norm
            p.grad = None if p.grad is None else p.grad * (clip / norm)  # hooks may have kept the gradient itself
    if math.isfinite(norm):
        optimiser.step()
    optimiser.zero_grad()
    if not math.isfinite(norm):
        raise FloatingPointError(f"flossing epoch {epoch}: the gradient overflows")
    return norm


def _norm(gradients: list[Tensor]) -> float:
    """The norm of all gradients together, scaled by the largest entry, so squares overflow only if the norm does."""
    largest = torch.stack([g.abs().max() for g in gradients]).max() if gradients else torch.zeros(())
    if not 0 < largest < math.inf:
        return largest.item()
    return (largest * torch.stack([(g / largest).norm() for g in gradients]).norm()).item()


def _target(target: Any, exponents: Tensor) -> Tensor:
    target = torch.as_tensor(target, dtype=exponents.dtype, device=exponents.device)
    if target.shape not in ((), exponents.shape[-1:]):
        legal = tuple(exponents.shape[-1:])
        raise ValueError(
            f"target must be a scalar or have shape {legal} like exponents, got shape {tuple(target.shape)}"
        )
    if not target.isfinite().all():
        raise ValueError(f"target must be finite, got {target.tolist()}")
    return target


def _explain(exponents: Tensor) -> str:
    rows = exponents.detach().reshape(-1, exponents.shape[-1])
    return infinite_exponent_message(rows[~rows.isfinite().all(-1)][0].cpu().numpy())
