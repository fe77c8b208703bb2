"""Tangents that stay inside an invariant subspace, in torch; see `flossing._tangent.subspace`."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing._tangent.candidates import (
    CONTRAST_MESSAGE,
    LEAK,
    candidates,
    is_contrast,
    may_be_transversal,
    sampled_steps,
    transversal,
)
from flossing.pytorch._orbits import orbit
from flossing.pytorch._system import StepSystem, System


def restrict(system: System, basis: Any, transient: int = 0) -> System:
    """`system` with its tangents restricted to an invariant subspace that holds `basis`, if one is found."""
    as_step = system if isinstance(system, StepSystem) else system.as_step()
    one = as_step if as_step.batch is None else as_step.sequence(0)
    given = torch.as_tensor(basis).detach().cpu().double().numpy()
    with torch.no_grad():
        for candidate in _candidates(one, given, transient, as_step.batch is None):
            subspace = torch.as_tensor(candidate, dtype=system.like.dtype, device=system.like.device)
            if _is_invariant(one, subspace, transient):
                return replace(system, subspace=subspace)
    if is_contrast(given, torch.finfo(system.like.dtype).eps):
        warnings.warn(CONTRAST_MESSAGE, stacklevel=4)
    return system


def _candidates(system: StepSystem, basis: Float[np.ndarray, "*B N k"], transient: int, alone: bool) -> Iterator[Any]:
    eps = torch.finfo(system.like.dtype).eps
    yield from candidates(basis, eps)
    if not alone or basis.ndim != 2 or not may_be_transversal(basis, eps):
        return
    transient = min(transient, system.length - 1)
    states = orbit(system)[transient + sampled_steps(system.length - transient)]
    across = transversal(basis, states.cpu().double().numpy(), eps)
    if across is not None:
        yield across


def _is_invariant(system: StepSystem, subspace: Float[Tensor, "N m"], transient: int) -> bool:
    """Whether the Jacobians map the subspace into itself, at points of the orbit evenly spaced after the transient."""
    transient = min(transient, system.length - 1)
    state, at = system.state, set((transient + sampled_steps(system.length - transient)).tolist())
    limit = LEAK * torch.finfo(subspace.dtype).eps
    draws = torch.randn(subspace.shape[1], 1, generator=torch.Generator().manual_seed(0)).to(subspace)
    vector = subspace @ (draws / draws.norm())  # excludes nearly all subspaces, and costs less than all their tangents
    for t in range(system.length):
        here = replace(system, state=state)
        if t in at and not all(_leak(here, t, tangents, subspace) <= limit for tangents in (vector, subspace)):
            return False
        state = system.step(state, system.input_at(t))
    return True


def _leak(system: StepSystem, t: int, tangents: Float[Tensor, "N k"], subspace: Float[Tensor, "N m"]) -> float:
    """The size of the part of the tangents outside the subspace after step `t`, relative to the longest of them."""
    inputs = system.inputs_between(t, t + 1)
    pushed = replace(system, inputs=inputs, length=1).flow(tangents, transient=0, interval=1)
    outside = pushed.basis - subspace @ (subspace.mT @ pushed.basis)
    length = torch.exp(pushed.log_growth[0] - pushed.log_growth[0].max())  # a column of Q says nothing of its length
    return torch.linalg.matrix_norm(outside * length, 2).item()
