"""The tangent flow in torch, for any step: D Q = Q' R after each block of steps; see `flossing._spectra.lyapunov`.

How a basis is pushed through a step depends on what the step's operations allow, and on the size of the state:

- `_together`: the Jacobians of many steps at once, since all states of the orbit are known before their tangents;
- `_forward`: k tangents by forward mode, block by block; no Jacobian is formed;
- `_backward`: Jacobians by plain autograd, for operations that `torch.func` cannot transform, as surrogate spikes.

All give the same numbers and can be differentiated again.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev, jvp, vmap
from torch.utils import _pytree as pytree

from flossing.pytorch._orthonormal import orthonormalise, push
from flossing.pytorch._state import Coordinates

SMALL = 128
"""States of up to so many coordinates have their Jacobians formed: it costs less than the overhead of forward mode."""

TOGETHER = 64
"""Steps whose Jacobians are formed at once."""

Step: TypeAlias = Callable[[Any, Any], Any]
Point: TypeAlias = tuple[Tensor, list[Tensor]]
"""The coordinates of a state, and its leaves that have none."""

Way: TypeAlias = Callable[..., tuple[Point, Tensor, Tensor]]
"""`way(step, point, inputs, basis, sizes)`: the point and the basis after blocks of these sizes, log R_ii of each."""

Jacobians: TypeAlias = Iterator[tuple[Point, Tensor]]
"""Some steps at a time, the point after them and their Jacobians (steps, N, N)."""


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

    end, q, growth = way(step_at, start, leaves, basis, [size for size in sizes if size])
    before, growth = growth.tensor_split([before])
    exponents, growth = _average(growth, kept)
    return Flow(exponents, growth, before, q, coordinates.join(*end))


def _together(step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, sizes: list[int]):
    return _multiply(_jacobians_together(step, point, inputs, sum(sizes)), point, basis, sizes)


def _forward(step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, sizes: list[int]):
    def run(x: Tensor, rest: list[Tensor], block: list[list[Tensor]]) -> Point:
        for now in block:
            x, rest = step(x, rest, now)
        return x, rest

    first, q, growth = 0, basis, []
    for size in sizes:
        block = [[s[t] for s in inputs] for t in range(first, first + size)]
        q, log_r = orthonormalise(_along(lambda x, b=block, p=point: run(x, p[1], b), point[0], q))
        growth.append(log_r)
        first, point = first + size, run(*point, block)
    return point, q, torch.stack(growth)


def _backward(step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, sizes: list[int]):
    return _multiply(_jacobians_one_by_one(step, point, inputs, sum(sizes)), point, basis, sizes)


def _multiply(
    jacobians: Jacobians, point: Point, q: Tensor, sizes: list[int]
) -> tuple[Point, Tensor, Float[Tensor, "blocks k"]]:
    ends, first, growth = set(itertools.accumulate(sizes)), 1, []
    for point, some in jacobians:  # noqa: B007
        q, log_r = push(some, q, {t for t in range(len(some)) if first + t in ends})
        growth.append(log_r)
        first += len(some)
    return point, q, torch.cat(growth)


def _jacobians_together(step: Callable, point: Point, inputs: list[Tensor], length: int) -> Jacobians:
    for first in range(0, length, TOGETHER):
        chunk = [s[first : first + TOGETHER] for s in inputs]
        orbit = [point]
        with torch.no_grad():
            for t in range(min(TOGETHER, length - first)):
                orbit.append(step(*orbit[-1], [s[t] for s in chunk]))
            xs = torch.stack([x for x, _ in orbit])
        *rests, rest = (rest for _, rest in orbit)
        rests = [torch.stack(leaves) for leaves in zip(*rests, strict=True)]
        found = []
        if torch.is_grad_enabled():
            after = vmap(lambda *at: step(*at)[0])(xs[:-1], rests, chunk)
            xs = _Orbit.apply(xs, point[0], after, found)
        jacobians = vmap(jacrev(lambda *at: step(*at)[0]))(xs[:-1], rests, chunk)
        found.append(jacobians.detach())
        point = xs[-1], rest
        yield point, jacobians


class _Orbit(torch.autograd.Function):
    """Points x_0 to x_m as a function of x_0 and of all that enters a step beside its state.

    `after` is the step at all of x_0 to x_(m-1), these held fixed, so that a change of weights enters each step on its
    own. How it goes on from there the Jacobians say, which are in the list `found` when the pullback needs them.
    """

    @staticmethod
    def forward(ctx: Any, xs: Tensor, start: Tensor, after: Tensor, found: list[Tensor]):
        ctx.found = found
        return xs.view_as(xs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (jacobians,), (*before, now) = ctx.found, cotangents[0].unbind()
        pulled = [now]
        for x_bar, jacobian in zip(reversed(before), reversed(jacobians.unbind()), strict=True):
            pulled.append(torch.addmv(x_bar, jacobian.mT, pulled[-1]))
        start, *after = reversed(pulled)
        return None, start, torch.stack(after), None


def _jacobians_one_by_one(step: Callable, point: Point, inputs: list[Tensor], length: int) -> Jacobians:
    x, rest = point
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    differentiable = step(x, rest, [s[0] for s in inputs])[0].requires_grad
    for first in range(0, length, TOGETHER):
        jacobians = []
        for t in range(first, min(first + TOGETHER, length)):
            with torch.enable_grad():
                x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
                y, rest = step(x, rest, [s[t] for s in inputs])
                jacobians.append(_jacobian(y, x, identity, differentiable))
            x = y if differentiable else y.detach()
        yield (x, rest), torch.stack(jacobians)


def _jacobian(y: Tensor, x: Tensor, identity: Tensor, differentiable: bool) -> Tensor:
    if not y.requires_grad:  # a step that ignores its state
        return torch.zeros_like(identity)
    options = {"retain_graph": True, "create_graph": differentiable, "materialize_grads": True}
    try:
        return torch.autograd.grad(y, x, identity, is_grads_batched=True, **options)[0]
    except RuntimeError:  # an operation that cannot take many gradients at once takes one after another
        return torch.stack([torch.autograd.grad(y, x, row, **options)[0] for row in identity])


def _along(function: Callable, x: Tensor, tangents: Tensor) -> Tensor:
    def along(tangent: Tensor) -> Tensor:
        return jvp(function, (x,), (tangent,), has_aux=True)[1]

    return vmap(along, in_dims=1, out_dims=1)(tangents)


def _first_that_works(ways: list[Way], step: Callable, point: Point, inputs: list[Tensor], basis: Tensor) -> Way:
    *ways, last = ways
    for way in ways:
        try:
            way(step, point, [s[:1] for s in inputs], basis, [1])
            return way
        except Exception:  # torch.func refuses: no forward derivative, no batching rule, a value looked at, ...
            continue
    return last


def _average(growth: Float[Tensor, "blocks k"], time: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "blocks k"]]:
    # As in `flossing._tangent.flow`: a direction lost once is lost for good; none of its blocks may send a gradient.
    dead = growth.isneginf().cumsum(0) > 0
    total = torch.where(dead[-1], 0, growth).sum(0)
    return torch.where(dead[-1], -torch.inf, total / time), torch.where(dead, -torch.inf, growth)
