"""Orbits of a system in torch: the states after each step, along its own inputs or along white ones."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from flossing.pytorch._arguments import each_input, is_floating, real_numbers
from flossing.pytorch._system import ModuleSystem, StepSystem, System

_CANNOT_BE_BATCHED = (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError)
"""The exceptions of `torch.vmap`, and of Python in a step that reads numbers from its tensors."""


def white(system: System, count: int, generator: torch.Generator) -> System:
    """The system along `count` sequences of inputs drawn from its own, step by step."""
    at = _random_steps(system, count, generator)
    inputs = pytree.tree_map(lambda leaf: leaf[tuple(index.to(leaf.device) for index in at)], system.inputs)
    if isinstance(system, ModuleSystem):
        many = system.batch is not None
        state = pytree.tree_map(lambda h: _rows(h, count) if many else h.expand(count, *h.shape), system.state)
        return replace(system, inputs=inputs, state=state, lengths=None)
    state = pytree.tree_map(lambda x: _rows(x, count), system.state) if system.has_states else system.state
    return replace(system, inputs=inputs, state=state, batch=count, lengths=None)


def _random_steps(system: System, count: int, generator: torch.Generator) -> tuple[Int[Tensor, "P T"], ...]:
    def draw(below: int) -> Tensor:
        return torch.randint(below, (count, system.length), generator=generator, device=generator.device)

    if system.batch is None:
        return (draw(system.length),)
    rows = draw(system.batch)
    if system.lengths is None:
        return rows, draw(system.length)
    lengths = torch.tensor(system.lengths, device=rows.device).clamp(max=system.length)[rows]
    uniform = torch.rand(count, system.length, generator=generator, device=generator.device)
    return rows, torch.minimum((uniform * lengths).long(), lengths - 1)


def _rows(states: Tensor, count: int) -> Tensor:
    return states[torch.arange(count, device=states.device) % len(states)]


def channels_of(system: System) -> int:
    """The real numbers in the input of a step."""
    if system.inputs is None:
        return 0
    first = pytree.tree_map(lambda leaf: leaf[0] if system.batch is None else leaf[0, 0], system.inputs)
    return real_numbers(first, axes=0).numel()


def orbit(system: System) -> Float[Tensor, "... T N"]:
    """The real coordinates of the state after each step."""
    if isinstance(system, StepSystem) and system.batch is not None:
        return _batch_of_orbits(replace(system, lengths=None))
    if isinstance(system, StepSystem):
        return _run(system.step, system, axes=0)
    one = system.as_step()
    if system.batch is None:
        return _run(one.step, one, axes=0)
    # The steps of torch's own modules can be batched.
    return _run(torch.vmap(one.step), replace(one, inputs=one.inputs.movedim(1, 0)), axes=1).movedim(0, 1)


def _batch_of_orbits(system: StepSystem) -> Float[Tensor, "B T N"]:
    """All sequences at once if the step can be batched, else one after another."""
    assert system.batch is not None
    batch = system.batch
    state = system.state
    if not system.has_states:
        state = pytree.tree_map(lambda x: x.expand(batch, *x.shape), state)
    along = each_input(lambda s: s.movedim(1, 0), system.inputs)
    together = replace(system, state=state, inputs=along, batch=None, has_states=False)
    if _can_be_batched(together):
        return _run(torch.vmap(system.step), together, axes=1).movedim(0, 1)
    return torch.stack([orbit(system.sequence(index)) for index in range(batch)])


def _can_be_batched(system: StepSystem) -> bool:
    """Whether `torch.vmap` runs the step, forwards and, where a gradient may be wanted, backwards; a trial of one."""
    leaves, spec = pytree.tree_flatten(system.state)
    leaves = [x.detach().clone().requires_grad_(is_floating(x)) for x in leaves]
    try:
        after = torch.vmap(system.step)(pytree.tree_unflatten(leaves, spec), system.input_at(0))
        total = real_numbers(after, axes=1).sum()
        if total.requires_grad:
            torch.autograd.grad(total, [x for x in leaves if x.requires_grad], allow_unused=True)
    except _CANNOT_BE_BATCHED:
        return False
    return True


def _run(step: Callable, system: StepSystem, axes: int) -> Float[Tensor, "T ..."]:
    state, found = system.state, []
    for t in range(system.length):
        state = step(state, system.input_at(t))
        found.append(real_numbers(state, axes))
    return torch.stack(found)
