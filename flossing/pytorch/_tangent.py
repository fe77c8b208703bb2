"""The tangent flow in torch, for any step: D Q = Q' R after each block of steps; see `flossing._lyapunov`.

How a basis is pushed through a step depends on what the step's operations allow, and on the size of the state:

- `_together`: the Jacobians of many steps at once, since all states of the orbit are known before their tangents;
- `_forward`: k tangents by forward mode, block by block; no Jacobian is formed;
- `_backward`: Jacobians by plain autograd, for operations that `torch.func` cannot transform, as surrogate spikes.

All give the same numbers and can be differentiated again.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev, jvp, vmap
from torch.utils import _pytree as pytree

from flossing.pytorch._orthonormal import orthonormalise
from flossing.pytorch._state import Coordinates

SMALL = 128
"""States of up to so many coordinates have their Jacobians formed: it costs less than the overhead of forward mode."""

TOGETHER = 64
"""Steps whose Jacobians are formed at once."""

Step: TypeAlias = Callable[[Any, Any], Any]
Point: TypeAlias = tuple[Tensor, list[Tensor]]
"""The coordinates of a state, and its leaves that have none."""

Push: TypeAlias = Callable[[Tensor], Tensor]
Pushes: TypeAlias = Iterator[tuple[Point, list[Push]]]
"""For each block the point after it, and the maps of its steps on tangents (N, k), to be applied one by one."""

Way: TypeAlias = Callable[..., Pushes]


class Flow(NamedTuple):
    """What a run along one sequence leaves, or along B with a leading axis B each; arrays of either library.

    Fields as in `Spectrum`.
    """

    exponents: Any
    growth: Any
    transient_growth: Any
    basis: Any
    state: Any


def tangent_flow(
    step: Step,
    state: Any,
    inputs: Any,
    basis: Float[Tensor, "N k"],
    *,
    length: int,
    transient: int,
    interval: int,
) -> Flow:
    """Push `basis` along the orbit of `step`; blocks of `interval` steps end at `transient` and at `length`."""
    coordinates = Coordinates(state)
    leaves, spec = pytree.tree_flatten([] if inputs is None else inputs)

    def step_at(x: Tensor, rest: list[Tensor], now: list[Tensor]) -> Point:
        input = None if inputs is None else pytree.tree_unflatten(now, spec)
        return coordinates.split(step(coordinates.join(x, rest), input))

    start: Point = coordinates.split(state)
    ways = [_together, _forward, _backward] if coordinates.size <= SMALL else [_forward, _backward]
    way = _first_that_works(ways, step_at, start, leaves, basis)
    kept, before = length - transient, -(-transient // interval)
    sizes = [transient % interval] + [interval] * (transient // interval)
    sizes += [interval] * (kept // interval) + [kept % interval]

    end, q, growth = start, basis, []
    for end, pushes in way(step_at, start, leaves, [size for size in sizes if size]):  # noqa: B007
        for push in pushes:
            q = push(q)
        q, log_r = orthonormalise(q)
        growth.append(log_r)
    before, growth = torch.stack(growth).tensor_split([before])
    exponents, growth = _average(growth, kept)
    return Flow(exponents, growth, before, q, coordinates.join(*end))


def _together(step: Callable, point: Point, inputs: list[Tensor], sizes: list[int]) -> Pushes:
    def steps(point: Point, length: int) -> Iterator[tuple[Point, Push]]:
        for first in range(0, length, TOGETHER):
            chunk = [s[first : first + TOGETHER] for s in inputs]
            orbit = [point]
            for t in range(min(TOGETHER, length - first)):
                orbit.append(step(*orbit[-1], [s[t] for s in chunk]))
            *starts, point = orbit
            xs, rests = zip(*starts, strict=True)
            rest = [torch.stack(leaves) for leaves in zip(*rests, strict=True)]
            jacobians = vmap(jacrev(lambda *at: step(*at)[0]))(torch.stack(xs), rest, chunk)
            yield from zip(orbit[1:], map(_multiplication, jacobians.unbind()), strict=True)

    return _in_blocks(steps(point, sum(sizes)), sizes)


def _forward(step: Callable, point: Point, inputs: list[Tensor], sizes: list[int]) -> Pushes:
    def run(x: Tensor, rest: list[Tensor], block: list[list[Tensor]]) -> Point:
        for now in block:
            x, rest = step(x, rest, now)
        return x, rest

    def push(tangents: Tensor, x: Tensor, rest: list[Tensor], block: list[list[Tensor]]) -> Tensor:
        def along(tangent: Tensor) -> Tensor:
            return jvp(lambda x: run(x, rest, block), (x,), (tangent,), has_aux=True)[1]

        return vmap(along, in_dims=1, out_dims=1)(tangents)

    first = 0
    for size in sizes:
        block = [[s[t] for s in inputs] for t in range(first, first + size)]
        along_block = partial(push, x=point[0], rest=point[1], block=block)
        first, point = first + size, run(*point, block)
        yield point, [along_block]


def _backward(step: Callable, point: Point, inputs: list[Tensor], sizes: list[int]) -> Pushes:
    def steps(x: Tensor, rest: list[Tensor]) -> Iterator[tuple[Point, Push]]:
        identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
        differentiable = step(x, rest, [s[0] for s in inputs])[0].requires_grad
        for t in range(sum(sizes)):
            with torch.enable_grad():
                x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
                y, rest = step(x, rest, [s[t] for s in inputs])
                jacobian = _jacobian(y, x, identity, differentiable)
            x = y if differentiable else y.detach()
            yield (x, rest), _multiplication(jacobian)

    return _in_blocks(steps(*point), sizes)


def _multiplication(jacobian: Tensor) -> Push:
    return lambda q: jacobian @ q


def _in_blocks(steps: Iterator[tuple[Point, Push]], sizes: list[int]) -> Pushes:
    for size in sizes:
        points, pushes = zip(*itertools.islice(steps, size), strict=True)
        yield points[-1], list(pushes)


def _jacobian(y: Tensor, x: Tensor, identity: Tensor, differentiable: bool) -> Tensor:
    if not y.requires_grad:  # a step that ignores its state
        return torch.zeros_like(identity)
    options = {"retain_graph": True, "create_graph": differentiable, "materialize_grads": True}
    try:
        return torch.autograd.grad(y, x, identity, is_grads_batched=True, **options)[0]
    except RuntimeError:  # an operation that cannot take many gradients at once takes one after another
        return torch.stack([torch.autograd.grad(y, x, row, **options)[0] for row in identity])


def _first_that_works(ways: list[Way], step: Callable, point: Point, inputs: list[Tensor], basis: Tensor) -> Way:
    *ways, last = ways
    for way in ways:
        try:
            for _, (push,) in way(step, point, [s[:1] for s in inputs], [1]):
                push(basis)
            return way
        except Exception:  # torch.func refuses: no forward derivative, no batching rule, a value looked at, ...
            continue
    return last


def _average(growth: Float[Tensor, "blocks k"], time: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "blocks k"]]:
    # As in `flossing._lyapunov`: a direction lost once is lost for good, and none of its blocks may send a gradient.
    dead = growth.isneginf().cumsum(0) > 0
    total = torch.where(dead[-1], 0, growth).sum(0)
    return torch.where(dead[-1], -torch.inf, total / time), torch.where(dead, -torch.inf, growth)
