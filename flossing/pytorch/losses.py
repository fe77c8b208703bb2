"""What flossing of torch modules minimises: a loss is a function `loss(measured) -> scalar`.

`exponents` is the loss of the paper; `Memory` the share of the last inputs that cannot be read from the state;
`KeepAndWrite`, the default of `floss`, a tenth of the first plus the second. The equations are those of
`flossing.losses`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from flossing._arguments import check_integer, check_positive
from flossing._messages import infinite_exponent_message
from flossing.pytorch._arguments import read_target, real_numbers
from flossing.pytorch._orbits import channels_of, orbit, white
from flossing.pytorch._system import System


@dataclass(frozen=True)
class Measured:
    """What a flossing epoch measures, as a loss receives it.

    - `exponents` (k,), or (B, k) with B sequences: per step, natural logarithm, differentiable; `target`, as a tensor.
    - `model`: the module, or the step function.
    - `inputs`: the inputs of the window, (T, S) or (B, T, S), or a pytree of such; None for an autonomous system.
    - `transient`: the steps at the start of the window that are left out of the average.

    `states()` gives the orbit, and `probes` orbits along white inputs. They are computed only if a loss calls them.
    """

    exponents: Float[Tensor, "... k"]
    target: Tensor
    model: Any
    system: System
    transient: int
    generator: torch.Generator

    @property
    def inputs(self) -> Any:
        """The inputs of the window."""
        return self.system.inputs

    def states(self) -> Float[Tensor, "... T N"]:
        """The real coordinates of the state after each step of the window; ValueError for several lengths."""
        if self.system.lengths is not None:
            raise ValueError("states must be of sequences of one length, got a batch with lengths")
        return orbit(self.system)

    def probes(self, count: int) -> tuple[Float[Tensor, "P T S"], Float[Tensor, "P T N"]]:
        """`count` sequences of white inputs, their real coordinates, and the states after each step.

        Every step has the input of a random step of `inputs`, drawn with replacement, anew in each epoch.
        """
        system = white(self.system, count, self.generator)
        return real_numbers(system.inputs, axes=2), orbit(system)


Loss: TypeAlias = Callable[[Measured], Tensor]


def flossing_loss(exponents: Float[Tensor, "... k"], target: Any = 0.0) -> Float[Tensor, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step, natural logarithm, or (B, k) for B sequences, averaged as well;
    `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and if an exponent is infinite.

    **Source:** Engelken (NeurIPS 2023), section 3.

        loss = flt.flossing_loss(flt.lyapunov_spectrum(module, inputs, k=8).exponents)
    """
    target = read_target(target, exponents)
    if not torch.isfinite(exponents.detach()).all():
        raise ValueError(explain(exponents))
    return (exponents - target).square().mean()


def explain(exponents: Tensor, interval: int = 1) -> str:
    """The message for exponents that are not finite."""
    return infinite_exponent_message(exponents.detach().cpu().numpy(), interval)


def exponents(measured: Measured) -> Tensor:
    """The loss of the paper, the mean squared distance of the exponents to their target.

    **Source:** Engelken (NeurIPS 2023), section 3.

        history = flt.floss(module, inputs, loss=flt.losses.exponents)
    """
    return (measured.exponents - measured.target).square().mean()


@dataclass(frozen=True)
class Memory:
    """One minus the mean share of the variance of the last inputs that a linear readout of the state recovers, 0 to 1.

    - `noise`: the noise added to each real coordinate of the state has the standard deviation
      `noise * sqrt(1 + mean(h**2))`.
    - `samples`: how many states are measured per coordinate of the state.

    With k exponents and S real input channels it covers the last k / S inputs, rounded down, at least one, at most half
    the window. Every floating number of an input is a channel, also noise. It is 0 for inputs without floating numbers
    and for autonomous systems.

        history = flt.floss(module, inputs, k=32, loss=flt.losses.Memory(noise=0.1))
    """

    noise: float = 0.03
    samples: int = 8

    def __post_init__(self):
        check_positive("noise", self.noise)
        check_integer("samples", self.samples, least=1)

    def __call__(self, measured: Measured) -> Tensor:
        """L_write."""
        plan = self.plan(measured.system, measured.exponents.shape[-1], measured.transient)
        if plan is None:
            return measured.exponents.new_zeros(())
        inputs, states = measured.probes(plan.count)
        return 1 - memory_shares(inputs, states, plan.delays, plan.first, self.noise).mean()

    def plan(self, system: System, k: int, transient: int) -> "MemoryPlan | None":
        """How the term is measured for a system; None where it is 0."""
        channels = channels_of(system)
        if not channels:
            return None
        delays = min(max(k // channels, 1), max(system.length // 2, 1))
        first = max(delays - 1, transient)
        return MemoryPlan(delays, first, math.ceil(self.samples * system.size / (system.length - first)))


@dataclass(frozen=True)
class MemoryPlan:
    """The number of delays, the first measured step, and the number of sequences."""

    delays: int
    first: int
    count: int


@dataclass(frozen=True)
class KeepAndWrite:
    """The default loss of flossing: the exponents near their target, and the last inputs readable from the state.

        L = weight L_keep + L_write

    - `weight`: how much the exponents count; `memory`: the settings of L_write.

        history = flt.floss(module, inputs, loss=flt.losses.KeepAndWrite(weight=1.0))
    """

    weight: float = 0.1
    memory: Memory = dataclasses.field(default_factory=Memory)

    def __post_init__(self):
        check_positive("weight", self.weight)

    def __call__(self, measured: Measured) -> Tensor:
        """The weighted sum."""
        return self.weight * exponents(measured) + self.memory(measured)


def loss_parts(loss: Loss) -> tuple[float, Memory | None] | None:
    """The weight of the exponents and the memory term, for the losses above; None for any other."""
    if loss is exponents:
        return 1.0, None
    if isinstance(loss, Memory) and type(loss) is Memory:  # a subclass may compute something else
        return 0.0, loss
    if isinstance(loss, KeepAndWrite) and type(loss) is KeepAndWrite and type(loss.memory) is Memory:
        return loss.weight, loss.memory
    return None


def memory_shares(
    inputs: Float[Tensor, "P T S"], states: Float[Tensor, "P T N"], delays: int, first: int, noise: float
) -> Float[Tensor, " D"]:
    """M_d for d = 0 ... `delays` - 1 over the steps from `first` on, all channels together; not corrected for bias."""
    window, size = states.shape[1:]
    inputs = inputs.to(states.dtype)
    lagged = torch.stack([inputs[:, first - d : window - d] for d in range(delays)], dim=2)  # (P, T', D, S)
    h = states[:, first:].reshape(-1, size)
    s = lagged.reshape(len(h), -1)
    variance_of_noise = noise**2 * (1 + h.square().mean())
    h, s = h - h.mean(0), s - s.mean(0)
    covariance = h.T @ h / len(h) + variance_of_noise * torch.eye(size, dtype=h.dtype, device=h.device)
    c = h.T @ s / len(h)
    solved = torch.cholesky_solve(c, torch.linalg.cholesky(covariance))
    recovered = (c * solved).sum(0).reshape(delays, -1).sum(1)
    variance = s.square().mean(0).reshape(delays, -1).sum(1)
    return torch.where(variance > 0, recovered / torch.where(variance > 0, variance, 1), 0)
