"""Gradient flossing of torch modules: their exponents are pulled to a target by any optimiser of torch.optim."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flossing._arguments import check_integer, check_positive
from flossing.pytorch._state import initial_basis
from flossing.pytorch._system import Engine, ModuleSystem, System, read_system


def flossing_loss(exponents: Float[Tensor, "... k"], target: Any = 0.0) -> Float[Tensor, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step, natural logarithm, or (B, k) for B sequences, the mean being over them
    too; `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and if an exponent is infinite.

    **Source:** Engelken (NeurIPS 2023), section 3.
    """
    target = _target(target, exponents)
    if not torch.isfinite(exponents.detach()).all():
        raise ValueError(_explain(exponents))
    return (exponents - target).square().mean()


class FlossingRecord(NamedTuple):
    """What one flossing epoch saw, before its update; see [`FlossingHistory`][flossing.pytorch.FlossingHistory]."""

    loss: float
    exponents: Float[Tensor, "... k"]
    gradient_norm: float
    interval: int


class FlossingHistory(NamedTuple):
    """A flossing phase, epoch by epoch, each measured before that epoch's update; tensors on the CPU.

    - `loss` (epochs,); `exponents` (epochs, k), or (epochs, B, k) with B sequences, per step, natural logarithm;
      `gradient_norm` (epochs,), Euclidean, over all flossed parameters; `interval` (epochs,), the steps between
      re-orthonormalisations.
    - `optimiser`: pass it to the next `floss` to keep its moments.
    """

    loss: Float[Tensor, " epochs"]
    exponents: Float[Tensor, "epochs ... k"]
    gradient_norm: Float[Tensor, " epochs"]
    interval: Int[Tensor, " epochs"]
    optimiser: torch.optim.Optimizer


def floss(
    module_or_step: Any,
    inputs: Any,
    *,
    state: Any = None,
    k: int | None = None,
    epochs: int = 500,
    window: int | None = None,
    transient: int | None = None,
    interval: int | Literal["auto"] = "auto",
    tolerance: float | None = None,
    target: Any = 0.0,
    basis: Any = None,
    generator: torch.Generator | None = None,
    parameters: Iterable[Tensor] | None = None,
    optimiser: torch.optim.Optimizer | Callable[[list], torch.optim.Optimizer] = torch.optim.Adam,
    clip: float | None = 0.1,
    engine: Engine = "auto",
    callback: Callable[[int, FlossingRecord], Any] | None = None,
) -> FlossingHistory:
    """Floss a recurrent network in place: `epochs` steps of an optimiser on the flossing loss.

    It can stand between any two lines of your training. The gradients of the flossed parameters are None afterwards.

    **Arguments:**

    - `module_or_step`, `state`, `k`, `basis`, `generator`, `engine`: as for
      [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]. Each epoch starts from `state`.
    - `inputs`: a sequence used in every epoch, or many, as for `lyapunov_spectrum`; or a function without arguments
      that gives a fresh one in each epoch; or None for an autonomous system.
    - `epochs`: flossing epochs, at least 1.
    - `window`: steps of the sequence that are used, from its start; all by default, required if `inputs` is None.
    - `transient`: steps of the window left out of the average; `10 + ceil(window / 10)` by default, at most half.
    - `interval`: steps between re-orthonormalisations. `"auto"` follows the network: as many as keep the gradient
      within `tolerance` of that with QR after every step; 1 in the first epoch, looked at after it and after every ten,
      and lengthened where epochs become a tenth cheaper.
    - `tolerance`: relative, in the 2-norm; 1e-3 in float32 and 1e-9 in float64 by default.
    - `target`: the exponents wanted, per step: a number, or one for each (k,).
    - `parameters`: what is flossed; by default all parameters of the module that require a gradient. To be given for a
      step that is a function.
    - `optimiser`: a class or function that makes one of a list of parameters, as `torch.optim.Adam` (the default, with
      its rate of 1e-3) or `functools.partial(torch.optim.Adam, lr=1e-2)`; or an optimiser you have. It then steps
      those of the parameters that it holds, and clears all gradients it holds.
    - `clip`: the largest 2-norm of the gradient, all parameters together, that the optimiser is given; `None` for any,
      as in the paper. Without it one spike of the gradient, as random networks have them, slows Adam for long.
    - `callback`: called after each epoch as `callback(epochs_done, record)`, with a
      [`FlossingRecord`][flossing.pytorch.FlossingRecord].

    **Returns:** a [`FlossingHistory`][flossing.pytorch.FlossingHistory]. Hooks on parameters are called as in any
    backward pass. The compiled code of `engine="jax"` is kept for later epochs and calls with the same shapes.

    **Raises:** `ValueError` as `lyapunov_spectrum` does; `FloatingPointError`, naming the epoch (from 1) and the
    exponent, when an exponent or the gradient is infinite or NaN; the parameters are then those before that epoch.

    **Source:** Engelken (NeurIPS 2023), section 3 and Algorithm 1.
    """
    # The rules are those of the JAX side. They need JAX installed, but none of its devices.
    from flossing._tangent.interval import longer_interval, shorter_interval
    from flossing._training.flossing import LOOK, default_transient

    check_integer("epochs", epochs, least=1)
    if interval != "auto":
        check_integer("interval", interval, least=1, note=" or 'auto'")
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    if clip is not None:
        check_positive("clip", clip)
    flossed, optimiser = _choose(module_or_step, parameters, optimiser)

    def read() -> System:
        sequence = inputs() if callable(inputs) else inputs
        steps = window if sequence is None else None
        with torch.enable_grad():  # weights may be computed when they are read
            return read_system(module_or_step, state, sequence, steps=steps, engine=engine)

    system = read()
    window = system.length if window is None else window
    check_integer("window", window, least=1, most=system.length, note=f" (inputs have {system.length} steps)")
    transient = default_transient(window) if transient is None else transient
    check_integer("transient", transient, least=0, most=window - 1, note=f" (window={window})")
    basis = initial_basis(system.size, system.like, k=k, generator=generator, basis=basis)
    target = _target(target, basis[0])

    records, strains, now = [], [], 1 if interval == "auto" else interval
    for epoch in range(1, epochs + 1):
        system = read() if epoch > 1 else system
        if system.length < window:
            raise ValueError(f"inputs must have the {window} steps of the window in every epoch, got {system.length}")
        system = system.start(window)
        while True:
            loss, exponents, strain = _objective(system, basis, target, transient, now, tolerance)
            shorter = shorter_interval(now, strain[None]) if interval == "auto" else now
            if shorter == now:
                break
            now, strains = shorter, []
        norm = _update(loss, exponents, flossed, optimiser, clip, epoch)
        records.append(FlossingRecord(loss.item(), exponents.detach().cpu(), norm, now))
        if callback is not None:
            callback(epoch, records[-1])
        strains.append(strain)
        if interval == "auto" and (epoch == 1 or epoch % LOOK == 0):
            now, strains = longer_interval(now, np.stack(strains), window), []
    loss, exponents, norm, intervals = zip(*records, strict=True)
    loss, norm = (torch.tensor(x, dtype=basis.dtype) for x in (loss, norm))
    return FlossingHistory(loss, torch.stack(exponents), norm, torch.tensor(intervals), optimiser)


def _choose(module_or_step: Any, parameters: Any, optimiser: Any) -> tuple[list[Tensor], torch.optim.Optimizer]:
    if parameters is None:
        if not isinstance(module_or_step, nn.Module):
            raise ValueError("parameters must be given for a step that is a function, got parameters=None")
        parameters = module_or_step.parameters()
    flossed = [p for p in parameters if p.requires_grad]
    if isinstance(optimiser, torch.optim.Optimizer):
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        flossed = [p for p in flossed if id(p) in held]
    if not flossed:
        raise ValueError("parameters must hold one that requires a gradient and that the optimiser holds, got none")
    return flossed, optimiser if isinstance(optimiser, torch.optim.Optimizer) else optimiser(flossed)


def _objective(
    system: System, basis: Tensor, target: Tensor, transient: int, interval: int, tolerance: float | None
) -> tuple[Tensor, Tensor, np.ndarray]:
    """The flossing loss, the exponents, and how much blocks of 1, 2, 4, ... intervals strain the precision."""
    with torch.enable_grad():
        if isinstance(system, ModuleSystem) and system.compiled:
            from flossing.pytorch import _jax_engine as _jax

            plan = {"transient": transient, "interval": interval, "tolerance": tolerance}
            of = (system.recurrent, system.state, system.inputs)
            loss, exponents, strains = _jax.objective(*of, basis, target, **plan)
        else:
            flow = system.flow(basis, transient=transient, interval=interval)
            loss, exponents = (flow.exponents - target).square().mean(), flow.exponents
            strains = _strains(torch.cat([flow.transient_growth, flow.growth], dim=-2).detach(), tolerance)
    return loss, exponents, strains.cpu().numpy()


def _strains(growth: Float[Tensor, "... blocks k"], tolerance: float | None) -> Float[Tensor, " factors"]:
    """`flossing._tangent.interval.strains_of` in torch, so that JAX takes no device; of many sequences the worst."""
    from flossing._tangent.interval import FACTORS, largest_spread

    reach = 0.25 * math.log(torch.finfo(growth.dtype).max)
    limit = max(largest_spread(str(growth.dtype).removeprefix("torch."), tolerance), 1e-3)
    blocks = growth.shape[-2]

    def strain(factor: int) -> Tensor:
        count = -(-blocks // factor)
        filled = torch.nn.functional.pad(growth, (0, 0, 0, count * factor - blocks))
        joined = filled.unflatten(-2, (count, factor)).sum(-2)
        most, least = joined.amax(-1), joined.amin(-1)
        spread = (most - least).logsumexp(-1) - math.log(count)
        return torch.maximum(spread / limit, torch.maximum(most, -least).amax(-1) / reach).max()

    strains = torch.stack([strain(factor) for factor in FACTORS])
    return torch.where(strains.isfinite(), strains, torch.inf)


def _update(
    loss: Tensor,
    exponents: Tensor,
    flossed: list[Tensor],
    optimiser: torch.optim.Optimizer,
    clip: float | None,
    epoch: int,
) -> float:
    """One step of the optimiser; the norm of the gradient before it is clipped. Raises before the step if something is
    not finite."""
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
    """The norm of all together; the largest entry taken out, squares cannot overflow where the norm itself does not."""
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
    from flossing._training.loss import explain_infinite

    rows = exponents.detach().reshape(-1, exponents.shape[-1])
    return explain_infinite(rows[~rows.isfinite().all(-1)][0].cpu().numpy())
