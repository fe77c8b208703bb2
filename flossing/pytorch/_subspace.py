"""Tangents that stay inside an invariant subspace, in torch; see `flossing._tangent.subspace`."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing._messages import warn
from flossing._tangent.candidates import (
    CONTRAST_MESSAGE,
    LEAK,
    candidates,
    is_contrast,
    is_kept,
    may_be_transversal,
    sampled_steps,
    transversal,
)
from flossing.pytorch._orbits import orbit
from flossing.pytorch._system import StepSystem, System
from flossing.pytorch._torch_engine import jacobians_along


def restrict(system: System, basis: Any, transient: int = 0) -> System:
    """`system` with its tangents restricted to an invariant subspace that holds `basis`, if one is found."""
    all_of = _sequences(system)
    one = all_of[0]
    given = torch.as_tensor(basis).detach().cpu().double().numpy()
    with torch.no_grad():
        for candidate in _candidates(one, given, transient, system.batch is None):
            subspace = torch.as_tensor(candidate, dtype=system.like.dtype, device=system.like.device)
            if _is_invariant(one, subspace, transient) and all(_is_kept(each, subspace, transient) for each in all_of):
                return replace(system, subspace=subspace)
    if is_contrast(given, torch.finfo(system.like.dtype).eps):
        warn(CONTRAST_MESSAGE)
    return system


def is_still_invariant(system: System) -> bool:
    """Whether the subspace of `system` is invariant at the end of its first sequence, whatever its weights are now."""
    one, subspace = _sequences(system)[0], system.subspace
    assert subspace is not None
    with torch.no_grad():
        ((last, state),) = _states(one, [one.length - 1])
        return _is_kept(replace(one, state=state, inputs=one.inputs_between(last, last + 1), length=1), subspace, 0)


def _sequences(system: System) -> list[StepSystem]:
    """Each sequence alone, without a subspace."""
    many = replace(system if isinstance(system, StepSystem) else system.as_step(), subspace=None)
    return [many] if many.batch is None else [many.sequence(index) for index in range(many.batch)]


def _candidates(system: StepSystem, basis: Float[np.ndarray, "*B N k"], transient: int, alone: bool) -> Iterator[Any]:
    eps = torch.finfo(system.like.dtype).eps
    yield from candidates(basis, eps)
    if not alone or basis.ndim != 2 or not may_be_transversal(basis, eps):
        return
    states = orbit(system)[_some_steps(system, transient)]
    across = transversal(basis, states.cpu().double().numpy(), eps)
    if across is not None:
        yield across


def _is_invariant(system: StepSystem, subspace: Float[Tensor, "N m"], transient: int) -> bool:
    """Whether the Jacobians map the subspace into itself, at points of the orbit evenly spaced after the transient."""
    limit = LEAK * torch.finfo(subspace.dtype).eps
    draws = torch.randn(subspace.shape[1], 1, generator=torch.Generator().manual_seed(0)).to(subspace)
    vector = subspace @ (draws / draws.norm())  # excludes nearly all subspaces, and costs less than all their tangents
    for t, state in _states(system, _some_steps(system, transient)):
        for tangents in (vector, subspace):
            outside, pushed = _leak(replace(system, state=state), t, tangents, subspace)
            if not outside <= limit * pushed:
                return False
    return True


def _is_kept(system: StepSystem, subspace: Float[Tensor, "N m"], transient: int) -> bool:
    """Whether the Jacobians of all steps after the transient map the subspace into itself; see `is_kept`."""
    pushed = jacobians_along(system.step, system.state, system.inputs, system.length, subspace)
    pushed = pushed[min(transient, system.length - 1) :]
    outside = pushed - subspace @ (subspace.mT @ pushed)
    return bool(is_kept(*(torch.linalg.matrix_norm(each).cpu().numpy() for each in (outside, pushed))))


def _states(system: StepSystem, steps: Collection[int]) -> Iterator[tuple[int, Any]]:
    """These steps with the state before each."""
    state = system.state
    for t in range(system.length):
        if t in steps:
            yield t, state
        state = system.step(state, system.input_at(t))


def _some_steps(system: StepSystem, transient: int) -> list[int]:
    transient = min(transient, system.length - 1)
    return (transient + sampled_steps(system.length - transient)).tolist()


def _leak(
    system: StepSystem, t: int, tangents: Float[Tensor, "N k"], subspace: Float[Tensor, "N m"]
) -> tuple[float, float]:
    """After step `t`, the size of the part of the tangents outside the subspace, and that of the longest of them."""
    inputs = system.inputs_between(t, t + 1)
    pushed = replace(system, inputs=inputs, length=1).flow(tangents, transient=0, interval=1)
    outside = pushed.basis - subspace @ (subspace.mT @ pushed.basis)
    length = torch.exp(pushed.log_growth[0])  # a column of Q says nothing of its length
    return torch.linalg.matrix_norm(outside * length, 2).item(), length.max().item()
