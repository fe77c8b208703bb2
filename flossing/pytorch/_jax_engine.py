"""torch's recurrent modules on the JAX engine, on the CPU: compiled calls on the same memory, and their gradients.

Compiled code depends on the kind of module and on shapes, not on weights, and is cached. JAX's configuration does not
change: each call selects float64 and the CPU for itself.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing._equations import Kind, advance
from flossing._linalg.precision import in_full_precision
from flossing._runtime.epochs import compiler_options
from flossing._runtime.threads import one_lapack_thread
from flossing._tangent.adjoint import window_flow
from flossing._tangent.coordinates import real_coordinates
from flossing._tangent.flow import average
from flossing._tangent.lengths import masked, shifted
from flossing._tangent.problem import Problem
from flossing._tangent.window import measure_window
from flossing.cells._from_weights import FUNCTIONS
from flossing.losses import memory_shares
from flossing.pytorch._arguments import own_transient
from flossing.pytorch._system import ModuleSystem
from flossing.pytorch._torch_engine import Flow

LEAST_SIZE = 128
"""The least number of steps that a program is compiled for."""

LARGE = 2**17
"""If the tangents of a step hold more numbers than this, over all sequences, programs may have LEAST_SIZE / 8 steps."""


class Span(NamedTuple):
    """The steps of a run; traced values, so that programs serve them all."""

    length: Any
    interval: Any
    transient: Any
    """The common transient of all sequences, after which they are aligned."""
    transient_of_each: Any
    """None for the default of each sequence."""


class Plan(NamedTuple):
    """The static arguments of compiled code, besides structures, shapes and dtypes."""

    kind: Kind
    batched: bool
    transient: int | None = None
    """None for the default of each sequence."""
    tolerance: float | None = None
    weight: float = 1.0
    """The weight of the exponents in the loss."""
    memory: tuple[int, int, float] | None = None
    """The delays, the first step and the noise of the memory term."""


def flow(system: ModuleSystem, basis: Tensor, *, transient: int | None, interval: int) -> Flow:
    """The tangent flow of each sequence; differentiable in the weights, the state, the inputs and the basis.

    One program serves all intervals, all transients, and all lengths up to the next power of two.
    """
    length, size = system.length, _compiled_length(system, basis)
    padded = replace(system, inputs=nn.functional.pad(system.inputs, (0, 0, 0, size - length)))
    common = own_transient(transient, length)
    each = None if system.lengths is not None and transient is None else np.int32(common)
    interval = min(interval, length)
    span = Span(np.int32(length), np.int32(interval), np.int32(common), each)
    leaves, spec = _differentiable_leaves(_arguments(padded, basis))
    plan = Plan(system.recurrent.kind, system.batch is not None)
    found = _Flow.apply(plan, span, spec, *leaves)
    exponents, growth, q, state = pytree.tree_unflatten(
        found, pytree.tree_structure((basis, basis, basis, system.state))
    )  # pyright: ignore[reportArgumentType]
    before = np.arange(common, 0, -interval)[::-1]
    after = np.minimum(np.arange(common + interval, length + interval, interval), length)
    return Flow(exponents, _ending_at(growth, after), _ending_at(growth, before), q, state)


def _compiled_length(system: ModuleSystem, basis: Tensor) -> int:
    """The next power of two; at least LEAST_SIZE, unless the arrays of so many steps are large."""
    least = LEAST_SIZE if basis.numel() * (system.batch or 1) <= LARGE else LEAST_SIZE // 8
    return max(least, 1 << (system.length - 1).bit_length())


def _ending_at(growth: Tensor, ends: np.ndarray) -> Tensor:
    """The growth of the blocks that end after so many steps."""
    return growth[..., torch.from_numpy(ends - 1), :]


def objective(
    system: ModuleSystem,
    basis: Tensor,
    target: Tensor,
    *,
    transient: int | None,
    interval: int,
    tolerance: float | None,
    weight: float,
    memory: tuple[int, int, float] | None,
    probes: ModuleSystem | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The flossing loss, differentiable; the exponents; the spread ratios, those of the worst sequence."""
    plan = Plan(system.recurrent.kind, system.batch is not None, transient, tolerance, weight, memory)
    along = None if probes is None else (probes.state, probes.inputs)
    leaves, spec = _differentiable_leaves((_arguments(system, basis), along))
    return _Objective.apply(plan, interval, spec, target, *leaves)  # pyright: ignore[reportReturnType]


class Arguments(NamedTuple):
    """What compiled code takes, tensors of torch outside and arrays of JAX inside."""

    layers: Any
    state: Any
    inputs: Any
    basis: Any
    lengths: Any


def _arguments(system: ModuleSystem, basis: Tensor) -> Arguments:
    lengths = None if system.lengths is None else torch.tensor(system.lengths, dtype=torch.int32)
    return Arguments(system.recurrent.layers, system.state, system.inputs, basis, lengths)


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, span: Span, spec: Any, *leaves: Tensor | None):
        wanted = ctx.needs_input_grad[3:]
        with settings(leaves):
            run = _jitted_flow()(plan, span, *_split(leaves, wanted, spec), linearise=any(wanted))
            result, ctx.pull = jax.block_until_ready(run)
        ctx.save_for_backward(*leaves)
        ctx.wanted, ctx.structure = wanted, jax.tree.structure(result)
        return tuple(map(_to_torch, jax.tree.leaves(result)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        leaves = ctx.saved_tensors  # raises if one was changed in place, which the pullback would not notice
        with settings(leaves):
            pulled = _pull(ctx.pull, jax.tree.unflatten(ctx.structure, map(_to_numpy, cotangents)))
            gradients = jax.block_until_ready(pulled)
        gradients = map(_to_torch, jax.tree.leaves(gradients))
        return None, None, None, *(next(gradients) if wanted else None for wanted in ctx.wanted)


class _Objective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, interval: int, spec: Any, target: Tensor, *leaves: Tensor | None):
        wanted = ctx.needs_input_grad[4:]
        of = np.asarray(interval), _to_numpy(target), *_split(leaves, wanted, spec)
        with settings(leaves):
            (loss, seen), gradients = jax.block_until_ready(_jitted_loss_and_gradient()(plan, *of))
        gradients = map(_to_torch, jax.tree.leaves(gradients))
        ctx.gradients = [next(gradients) if want else None for want in wanted]
        exponents, ratios = map(_to_torch, seen)
        ctx.mark_non_differentiable(exponents, ratios)
        return _to_torch(loss), exponents, ratios

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, None, None, *(None if g is None else g * cotangents[0] for g in ctx.gradients)


@functools.cache
def _jitted_flow() -> Callable:
    return jax.jit(
        _flow_and_pull, static_argnums=0, static_argnames="linearise", compiler_options=compiler_options(quicker=True)
    )


def _flow_and_pull(plan: Plan, span: Span, moving: Any, fixed: Any, *, linearise: bool):
    def measure(problem: Problem, basis: Any, transient: Any, count: Any) -> tuple:
        growth, end = window_flow(problem, basis, span.interval, transient=transient, length=span.length)
        since = jnp.arange(len(growth), dtype=transient.dtype) - transient
        counted = since >= 0
        if count is not None:  # later blocks hold rounding errors
            counted &= since // span.interval * span.interval < count
        time = span.length - transient if count is None else count
        exponents, averaged = average(jnp.where(counted[:, None], growth, 0), time.astype(growth.dtype))
        averaged = jnp.where(counted[:, None], averaged, 0)  # also where a direction was lost before the end
        return exponents, jnp.where(since[:, None] < 0, growth, averaged), end.q.T, problem.state(end.point)

    # The pullback is a pytree of residuals, so compiled code can return it.
    def run(moving):
        arguments = _merged(moving, fixed)
        return _each_sequence(measure, plan, arguments, span.length, span.transient, span.transient_of_each)

    return jax.vjp(run, moving) if linearise else (run(moving), None)


@jax.jit
def _pull(pull: Any, cotangents: Any):
    return pull(cotangents)[0]


@functools.cache
def _jitted_loss_and_gradient() -> Callable:
    return jax.jit(_loss_and_gradient, static_argnums=0, compiler_options=compiler_options(quicker=True))


def _loss_and_gradient(plan: Plan, interval: jax.Array, target: Any, moving: Any, fixed: Any):
    def measure(problem: Problem, basis: Any, transient: int, count: Any) -> tuple:
        return measure_window(problem, basis, interval, plan.tolerance, transient=transient, count=count)

    def loss(moving):
        arguments, along = _merged(moving, fixed)
        length = arguments.inputs.shape[-2]
        transient = own_transient(plan.transient, length)
        exponents, ratios = _each_sequence(measure, plan, arguments, length, transient, plan.transient)
        distance = exponents - jnp.broadcast_to(target, exponents.shape)
        value = plan.weight * jnp.mean(jnp.square(distance))
        if plan.memory is not None:
            value += 1 - _memory(plan, arguments.layers, *along)
        return value, (exponents, ratios.reshape(-1, ratios.shape[-1]).max(0))

    return jax.value_and_grad(loss, has_aux=True)(moving)


def _merged(moving: Any, fixed: Any) -> Any:
    return jax.tree.map(lambda m, f: f if m is None else m, moving, fixed, is_leaf=lambda x: x is None)


def _drive(layers: Any, inputs: jax.Array) -> jax.Array:
    weight, _, bias, _ = layers[0]
    return inputs @ weight.T if bias is None else inputs @ weight.T + jnp.expand_dims(bias, range(inputs.ndim - 1))


@in_full_precision
def _memory(plan: Plan, layers: Any, states: Any, inputs: jax.Array) -> jax.Array:
    """The mean share of the last inputs that a readout recovers, along white inputs (P, T, S)."""
    assert plan.memory is not None
    delays, first, noise = plan.memory

    def orbit(state, drive):
        def body(state, drive):
            state = advance(FUNCTIONS, plan.kind, layers, state, drive)
            return state, real_coordinates(state)

        return jax.lax.scan(body, state, drive)[1]

    along = jax.vmap(orbit)(states, _drive(layers, inputs))
    return jnp.mean(memory_shares(inputs, along, delays, first, noise))


def _each_sequence(
    measure: Callable, plan: Plan, arguments: Arguments, length: Any, transient: Any, of_each: Any
) -> Any:
    """`measure(problem, basis, transient, count)` along each sequence; `count` is None without lengths.

    `length` is that of the inputs without padding, `transient` that after which all sequences are aligned, `of_each`
    their own, None for the default of each.
    """
    layers, state, inputs, basis, lengths = arguments
    drive = _drive(layers, inputs)

    def step(layers: Any, state: Any, drive: Any) -> Any:
        return advance(FUNCTIONS, plan.kind, layers, state, drive)

    def one(state, drive, own):
        if own is None:
            return measure(Problem.of(layers, state, drive, step, len(drive)), basis, transient, None)
        along, count = shifted(drive, own, length, of_each)
        return measure(Problem.of(layers, state, along, masked(step), len(drive)), basis, transient, count)

    if not plan.batched:
        return one(state, drive, None)
    return jax.vmap(one, (0, 0, None if lengths is None else 0))(state, drive, lengths)


def _differentiable_leaves(tree: Any) -> tuple[list[Tensor | None], Any]:
    leaves, spec = pytree.tree_flatten(tree)
    if not torch.is_grad_enabled():  # autograd.Function cannot see this from inside
        leaves = [leaf if leaf is None else leaf.detach() for leaf in leaves]
    return leaves, spec


def _split(leaves: Sequence[Tensor | None], wanted: Sequence[bool], spec: Any) -> tuple[Any, Any]:
    """The arrays that need a gradient, and the others, each with None for the rest."""
    arrays = [None if leaf is None else _to_numpy(leaf) for leaf in leaves]
    moving = [a if want else None for a, want in zip(arrays, wanted, strict=True)]
    fixed = [None if want else a for a, want in zip(arrays, wanted, strict=True)]
    return pytree.tree_unflatten(moving, spec), pytree.tree_unflatten(fixed, spec)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _to_torch(array: jax.Array) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: JAX assumes that its arrays never change


@contextmanager
def settings(leaves: Sequence[Tensor | None]) -> Iterator[None]:
    """The precision of these tensors, on the CPU, for JAX inside this context."""
    # JAX returns results that are still being computed. Wait for them inside this context: outside it LAPACK uses as
    # many threads as it likes, and small QR decompositions take twice as long.
    double = any(leaf is not None and leaf.dtype == torch.float64 for leaf in leaves)
    with jax.enable_x64(double), jax.default_device("cpu"), one_lapack_thread():
        yield
