"""Tangents that stay inside an invariant subspace, in torch; see `flossing._tangent.subspace`."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing._tangent.candidates import LEAK, candidates, sampled_steps
from flossing.pytorch._system import StepSystem, System


def restrict(system: System, basis: Any, transient: int = 0) -> System:
    """`system` with its tangents restricted to an invariant subspace that holds `basis`, if one is found."""
    as_step = system if isinstance(system, StepSystem) else system.as_step()
    one = as_step if as_step.batch is None else as_step.sequence(0)
    given = torch.as_tensor(basis).detach().cpu().double().numpy()
    with torch.no_grad():
        for candidate in candidates(given, torch.finfo(system.like.dtype).eps):
            subspace = torch.as_tensor(candidate, dtype=system.like.dtype, device=system.like.device)
            if _is_invariant(one, subspace, transient):
                return replace(system, subspace=subspace)
    return system


def _is_invariant(system: StepSystem, subspace: Float[Tensor, "N m"], transient: int) -> bool:
    """Whether the Jacobians map the subspace into itself, at points of the orbit evenly spaced after the transient."""
    transient = min(transient, system.length - 1)
    state, at = system.state, set((transient + sampled_steps(system.length - transient)).tolist())
    for t in range(system.length):
        input = system.input_at(t)
        if t in at and not _leak(replace(system, state=state), t, subspace) <= LEAK * torch.finfo(subspace.dtype).eps:
            return False
        state = system.step(state, input)
    return True


def _leak(system: StepSystem, t: int, subspace: Float[Tensor, "N m"]) -> float:
    """The size of the part of the tangents outside the subspace after step `t`, of which each has length 1."""
    inputs = system.inputs_between(t, t + 1)
    pushed = replace(system, inputs=inputs, length=1).flow(subspace, transient=0, interval=1).basis
    return torch.linalg.matrix_norm(pushed - subspace @ (subspace.mT @ pushed), 2).item()
