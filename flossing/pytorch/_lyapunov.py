"""Lyapunov exponents of torch modules and of steps written in torch."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing._arguments import check_integer
from flossing.pytorch._state import check_tensors, initial_basis
from flossing.pytorch._system import Engine, read_system
from flossing.pytorch._torch_engine import Flow


@dataclass(frozen=True)
class Spectrum:
    """Lyapunov exponents of one network along one sequence, or along each of B; tensors of the state's dtype.

    - `exponents` (k,): per step, natural logarithm; those of the driven system.
    - `growth` (blocks, k): log R_ii of each block of `interval` steps after the transient; the last block may be
      shorter. `exponents` is its sum over blocks, divided by `steps`.
    - `state`: the state after the last step, structured as the one given: what the module itself returns.
    - `basis` (N, k): the orthonormal basis after the last step. `state` and `basis` continue the run.
    - `transient_growth` (before, k): the same as `growth` of the blocks of the transient.
    - `steps`, `interval`: the number of steps averaged, and those in a block.

    Along B sequences all tensors but `state` have a leading axis B; `state` has the layout of the module.
    """

    exponents: Float[Tensor, "... k"]
    growth: Float[Tensor, "... blocks k"]
    state: Any
    basis: Float[Tensor, "... N k"]
    transient_growth: Float[Tensor, "... before k"]
    steps: int
    interval: int

    def mean(self) -> Float[Tensor, " k"]:
        """The mean over sequences; -inf where it is so for one of them."""
        return torch.atleast_2d(self.exponents).mean(0)

    def spread(self) -> Float[Tensor, " k"]:
        """The standard deviation over B sequences (with B - 1); NaN where an exponent is -inf.

        Raises ValueError for fewer than two sequences.
        """
        exponents = torch.atleast_2d(self.exponents)
        if len(exponents) < 2:
            raise ValueError("spread needs exponents of at least two sequences, got one: pass inputs (T, B, S)")
        return exponents.std(0)


def lyapunov_spectrum(
    module_or_step: Any,
    state: Any,
    inputs: Any,
    *,
    k: int | None = None,
    generator: torch.Generator | None = None,
    basis: Any = None,
    transient: int = 0,
    interval: int = 1,
    steps: int | None = None,
    engine: Engine = "auto",
) -> Spectrum:
    """Measure the first `k` Lyapunov exponents of a recurrent network of torch along `inputs`, starting from `state`.

    **Arguments:**

    - `module_or_step`: an `nn.RNN`, `nn.GRU`, `nn.LSTM` of any number of layers, an `nn.RNNCell`, `nn.GRUCell`,
      `nn.LSTMCell`; or any pure function, or module with such a forward, `step(state, input) -> state`.
    - `state`: what the module takes, h or (h, c), zeros if None; for a step a tensor, or tuples and dicts of tensors.
      Its N real coordinates are the entries of the floating tensors, as in [`flossing.lyapunov_spectrum`][].
    - `inputs`: (T, S), or (T, B, S) for a module, (B, T, S) if it is `batch_first`: then each of the B sequences has
      exponents. For a step, a tensor or pytree of tensors with a leading time axis of T, or None for an autonomous
      system, which needs `steps=T` and is called as `step(state, None)`.
    - `k`: how many exponents, 1 to N; all N if neither `k` nor `basis` is given.
    - `generator`: draws the initial basis, the Q factor of a Gaussian N x k matrix; one with seed 0 by default.
    - `basis`: the initial basis itself (N, k) instead; its columns are orthonormalised first.
    - `transient`: steps at the start during which the basis turns but growth is not counted, 0 to T - 1.
    - `interval`: steps between re-orthonormalisations.
    - `engine`: "jax" runs the modules above on the CPU in compiled code of JAX, "torch" runs anything anywhere;
      "auto" takes "jax" where it can.

    **Returns:** a [`Spectrum`][flossing.pytorch.Spectrum] on the device and of the dtype of the state. Where torch
    records gradients it is differentiable, once, in parameters, `state` and `inputs`. Where a Jacobian is singular the
    exponent and the later ones are -inf with zero gradient. The gradient of a surrogate stands in for a derivative in
    the tangents as it does in training.

    **Raises:** `ValueError`, in one line, for arguments out of range or that do not fit one another, NaN or infinite
    values, modules that have no map from one state to the next, an orbit that ceases to be finite. Warns
    (`UserWarning`) where all exponents are -inf: the step forgets its state.

    **Source:** Engelken (NeurIPS 2023) sections 2 and 3; Benettin, Galgani, Giorgilli & Strelcyn (1980).
    """
    system = read_system(module_or_step, state, inputs, steps=steps, engine=engine)
    check_integer("transient", transient, least=0, most=system.length - 1, note=f" (the run has {system.length} steps)")
    check_integer("interval", interval, least=1)
    basis = initial_basis(system.size, system.like, k=k, generator=generator, basis=basis)
    flow = system.flow(basis, transient=transient, interval=interval)
    _check_flow(flow)
    return Spectrum(**flow._asdict(), steps=system.length - transient, interval=interval)


def _check_flow(flow: Flow):
    growth = flow.growth.detach()
    if growth.isnan().any() or growth.isposinf().any():
        block = (growth.isnan() | growth.isposinf()).any(-1).nonzero()[0].tolist()
        where = f"sequence {block[0]}, block {block[1]}" if len(block) > 1 else f"block {block[0]}"
        raise ValueError(
            f"step must keep the state and its tangents finite, got NaN or infinity in {where} "
            "after the transient: check its parameters, or whether the orbit escapes"
        )
    check_tensors("state after the last step, state", flow.state)
    if flow.exponents.detach().isneginf().all():
        warnings.warn("all exponents are -inf: step forgets its state, its Jacobian is zero", stacklevel=3)
