"""The tangent flow in torch, for any step: D Q = Q' R after each block of steps; see `flossing._tangent.flow`.

The method to push a basis through a step depends on the step's operations and on the size of the state:

- `_batched_jacobians`: the Jacobians of many steps at once, since the states of the orbit are known first;
- `_forward_mode`: k tangents by forward mode, block by block; no Jacobian is formed;
- `_reverse_mode`: Jacobians by plain autograd, for what `torch.func` cannot transform, such as surrogate spikes.

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

from flossing.pytorch._arguments import Coordinates
from flossing.pytorch._qr import orthonormalise, push

MAX_JACOBIAN_SIZE = 128
"""States of up to this size form their Jacobians, which costs less than the overhead of forward mode."""

JACOBIAN_BATCH = 64
"""The number of steps whose Jacobians are formed together."""

Step: TypeAlias = Callable[[Any, Any], Any]
Point: TypeAlias = tuple[Tensor, list[Tensor]]
"""The coordinates of a state, and its leaves that have none."""

Projection: TypeAlias = Callable[[Tensor], Tensor]

Method: TypeAlias = Callable[..., tuple[Point, Tensor, Tensor]]
"""`method(step, point, inputs, basis, sizes, project)`: point and basis after blocks of these sizes, and log R_ii of
each. `project` is applied to the tangents at the end of each block."""

Jacobians: TypeAlias = Iterator[tuple[Point, Tensor]]
"""For some steps at a time, the point after them and their Jacobians (steps, N, N)."""


class Flow(NamedTuple):
    """The result of a run along one sequence, or along B sequences, with a leading axis B; arrays of either library.

    Fields as in `Spectrum`.
    """

    exponents: Any
    log_growth: Any
    transient_log_growth: Any
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
    subspace: Float[Tensor, "N m"] | None = None,
    method: "Method | None" = None,
) -> Flow:
    """Push `basis` along the orbit of `step`; blocks of `interval` steps end at `transient` and at `length`.

    With a `subspace` of orthonormal columns, tangents are projected onto its span at the end of each block.
    """
    coordinates = Coordinates(state)
    step_at, start, leaves = _in_coordinates(step, coordinates, state, inputs)
    method = method or choose_method(step, state, inputs, basis)
    averaged, before = length - transient, -(-transient // interval)
    sizes = [transient % interval] + [interval] * (transient // interval)
    sizes += [interval] * (averaged // interval) + [averaged % interval]

    project = _no_projection if subspace is None else lambda a: subspace @ (subspace.mT @ a)
    end, q, growth = method(step_at, start, leaves, basis, [size for size in sizes if size], project)
    before, growth = growth.tensor_split([before])
    exponents, growth = _average(growth, averaged)
    return Flow(exponents, growth, before, project(q), coordinates.join(*end))


def choose_method(step: Step, state: Any, inputs: Any, basis: Float[Tensor, "N k"]) -> "Method":
    """The first method that this step supports, if possible with a gradient; found by a trial of one step."""
    coordinates = Coordinates(state)
    methods = [_batched_jacobians] if coordinates.size <= MAX_JACOBIAN_SIZE else []
    methods += [_forward_mode, _reverse_mode]
    trial = *_in_coordinates(step, coordinates, state, inputs), basis
    try:
        return _first_supported(methods, *trial, with_gradient=torch.is_grad_enabled())
    except _Unsupported:
        return _first_supported(methods, *trial, with_gradient=False)


def check_gradient(step: Step, state: Any, inputs: Any, basis: Float[Tensor, "N k"], method: "Method"):
    """Raise ValueError unless the exponents of this step can be differentiated."""
    trial = *_in_coordinates(step, Coordinates(state), state, inputs), basis
    try:
        _first_supported([method], *trial, with_gradient=True)
    except _Unsupported as error:
        reason = (str(error.__cause__).strip() or repr(error.__cause__)).splitlines()[0]
        raise ValueError(
            f"step must have a derivative that can be differentiated again, got {reason}: leave out checkpoints, and "
            "use operations of plain PyTorch"
        ) from error


def jacobians_along(
    step: Step, state: Any, inputs: Any, length: int, tangents: Float[Tensor, "N k"] | None = None
) -> Float[Tensor, "T N n"]:
    """The Jacobian of each step along the orbit, or its product with `tangents`, without a gradient."""
    problem = _in_coordinates(step, Coordinates(state), state, inputs)

    def product(jacobians: Tensor) -> Tensor:
        return jacobians.detach() if tangents is None else jacobians.detach() @ tangents

    with torch.no_grad():
        try:
            found = [product(some) for _, some in _batches_of_jacobians(*problem, length)]
        except Exception:  # no batching rule, a branch on a value, ...: reverse mode serves any step
            found = [product(some) for _, some in _jacobians_one_by_one(*problem, length)]
    return torch.cat(found)


def _in_coordinates(
    step: Step, coordinates: Coordinates, state: Any, inputs: Any
) -> tuple[Callable[..., Point], Point, list[Tensor]]:
    """The step as a map of points, the first point, and the leaves of the inputs."""
    leaves, spec = pytree.tree_flatten([] if inputs is None else inputs)

    def step_at(x: Tensor, nondiff: list[Tensor], now: list[Tensor]) -> Point:
        input = None if inputs is None else pytree.tree_unflatten(now, spec)
        return coordinates.split(step(coordinates.join(x, nondiff), input))

    return step_at, coordinates.split(state), leaves


def _no_projection(a: Tensor) -> Tensor:
    return a


def _batched_jacobians(
    step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, sizes: list[int], project: Projection
):
    jacobians = _batches_of_jacobians(step, point, inputs, sum(sizes))
    return _multiply(jacobians, point, basis, sizes, project)


def _forward_mode(
    step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, sizes: list[int], project: Projection
):
    def run(x: Tensor, nondiff: list[Tensor], block: list[list[Tensor]]) -> Point:
        for now in block:
            x, nondiff = step(x, nondiff, now)
        return x, nondiff

    first, q, growth = 0, basis, []
    for size in sizes:
        block = [[s[t] for s in inputs] for t in range(first, first + size)]
        q, log_r = orthonormalise(project(_along(lambda x, b=block, p=point: run(x, p[1], b), point[0], q)))
        growth.append(log_r)
        first, point = first + size, run(*point, block)
    return point, q, torch.stack(growth)


def _reverse_mode(
    step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, sizes: list[int], project: Projection
):
    jacobians = _jacobians_one_by_one(step, point, inputs, sum(sizes))
    return _multiply(jacobians, point, basis, sizes, project)


def _multiply(
    jacobians: Jacobians, point: Point, q: Tensor, sizes: list[int], project: Projection
) -> tuple[Point, Tensor, Float[Tensor, "blocks k"]]:
    ends, first, growth = set(itertools.accumulate(sizes)), 1, []
    for point, some in jacobians:  # noqa: B007
        q, log_r = push(project(some), q, {t for t in range(len(some)) if first + t in ends})
        growth.append(log_r)
        first += len(some)
    return point, q, torch.cat(growth)


def _batches_of_jacobians(step: Callable, point: Point, inputs: list[Tensor], length: int) -> Jacobians:
    for first in range(0, length, JACOBIAN_BATCH):
        chunk = [s[first : first + JACOBIAN_BATCH] for s in inputs]
        orbit = [point]
        with torch.no_grad():
            for t in range(min(JACOBIAN_BATCH, length - first)):
                orbit.append(step(*orbit[-1], [s[t] for s in chunk]))
            xs = torch.stack([x for x, _ in orbit])
        *nondiffs, nondiff = (nondiff for _, nondiff in orbit)
        nondiffs = [torch.stack(leaves) for leaves in zip(*nondiffs, strict=True)]
        # The orbit was computed without a gradient, and `_Orbit` attaches it to the weights. Its pullback reads the
        # Jacobians from this list, which is filled below, before any pullback.
        found = []
        if torch.is_grad_enabled():
            after = vmap(lambda *at: step(*at)[0])(xs[:-1], nondiffs, chunk)
            xs = _Orbit.apply(xs, point[0], after, found)
        jacobians = vmap(jacrev(lambda *at: step(*at)[0]))(xs[:-1], nondiffs, chunk)
        found.append(jacobians.detach())
        point = xs[-1], nondiff
        yield point, jacobians


class _Orbit(torch.autograd.Function):
    """Points x_0 to x_m as a function of x_0 and of everything else that enters a step.

    `after` is the step at each of x_0 to x_(m-1), with these held fixed, so that a change of weights enters each step
    separately. The Jacobians propagate the change further; they are in the list `found` by the time of the pullback.
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
    x, nondiff = point
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    differentiable = step(x, nondiff, [s[0] for s in inputs])[0].requires_grad
    for first in range(0, length, JACOBIAN_BATCH):
        jacobians = []
        for t in range(first, min(first + JACOBIAN_BATCH, length)):
            with torch.enable_grad():
                x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
                y, nondiff = step(x, nondiff, [s[t] for s in inputs])
                jacobians.append(_jacobian(y, x, identity, differentiable))
            x = y if differentiable else y.detach()
        yield (x, nondiff), torch.stack(jacobians)


def _jacobian(y: Tensor, x: Tensor, identity: Tensor, differentiable: bool) -> Tensor:
    if not y.requires_grad:  # a step that ignores its state
        return torch.zeros_like(identity)
    options = {"retain_graph": True, "create_graph": differentiable, "materialize_grads": True}
    try:
        return torch.autograd.grad(y, x, identity, is_grads_batched=True, **options)[0]
    except RuntimeError:  # an operation that does not support batched gradients: take them one by one
        return torch.stack([torch.autograd.grad(y, x, row, **options)[0] for row in identity])


def _along(function: Callable, x: Tensor, tangents: Tensor) -> Tensor:
    def along(tangent: Tensor) -> Tensor:
        return jvp(function, (x,), (tangent,), has_aux=True)[1]

    return vmap(along, in_dims=1, out_dims=1)(tangents)


class _Unsupported(Exception):
    """No method supports a step; the reason that the last one gave is its cause."""


def _first_supported(
    methods: list[Method], step: Callable, point: Point, inputs: list[Tensor], basis: Tensor, *, with_gradient: bool
) -> Method:
    reason = None
    for method in methods:
        try:
            with torch.set_grad_enabled(with_gradient):
                x = point[0].detach().requires_grad_(with_gradient)
                _, q, growth = method(step, (x, point[1]), [s[:1] for s in inputs], basis, [1], _no_projection)
                if with_gradient and growth.requires_grad:
                    torch.autograd.grad((growth.sum(), q.sum()), x, allow_unused=True)
            return method
        except Exception as error:  # no forward derivative, no batching rule, a branch on a value, ...
            reason = error
    raise _Unsupported from reason


def _average(growth: Float[Tensor, "blocks k"], time: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "blocks k"]]:
    # As in `flossing._tangent.flow`: a direction lost once stays lost; none of its blocks may contribute a gradient.
    dead = growth.isneginf().cumsum(0) > 0
    total = torch.where(dead[-1], 0, growth).sum(0)
    return torch.where(dead[-1], -torch.inf, total / time), torch.where(dead, -torch.inf, growth)
