"""torch's recurrent modules on the JAX engine, on the CPU: compiled calls on the same memory, and their gradients.

Compiled code depends on the kind of module and on shapes, not on weights, and is cached. JAX's configuration does not
change: each call selects float64 and the CPU for itself.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from flossing._arguments import default_transient
from flossing._equations import Kind, advance
from flossing._linalg.precision import in_full_precision
from flossing._runtime.epochs import compiler_options
from flossing._runtime.threads import one_lapack_thread
from flossing._tangent.coordinates import real_coordinates
from flossing._tangent.flow import tangent_flow
from flossing._tangent.lengths import masked, shifted
from flossing._tangent.problem import Problem
from flossing._tangent.window import measure_window
from flossing.cells._from_weights import FUNCTIONS
from flossing.losses import memory_shares
from flossing.pytorch._system import ModuleSystem
from flossing.pytorch._torch_engine import Flow


class Plan(NamedTuple):
    """The static arguments of compiled code, besides structures, shapes and dtypes."""

    kind: Kind
    batched: bool
    transient: int | None
    """None for the default of each sequence."""
    tolerance: float | None = None
    weight: float = 1.0
    """The weight of the exponents in the loss."""
    memory: tuple[int, int, float] | None = None
    """The delays, the first step and the noise of the memory term."""


def flow(system: ModuleSystem, basis: Tensor, *, transient: int | None, interval: int) -> Flow:
    """The tangent flow of each sequence; differentiable in the weights, the state, the inputs and the basis."""
    plan = Plan(system.recurrent.kind, system.batch is not None, transient)
    leaves, spec = _differentiable_leaves(_arguments(system, basis))
    structure = pytree.tree_structure(Flow(basis, basis, basis, basis, system.state))
    return pytree.tree_unflatten(_Flow.apply(plan, interval, spec, *leaves), structure)  # pyright: ignore[reportArgumentType]


def objective(
    system: ModuleSystem,
    basis: Tensor,
    target: Tensor,
    *,
    transient: int | None,
    interval: int,
    tolerance: float | None,
    weight: float = 1.0,
    memory: tuple[int, int, float] | None = None,
    probes: ModuleSystem | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The flossing loss, differentiable; the exponents; the spread ratios, those of the worst sequence."""
    plan = Plan(system.recurrent.kind, system.batch is not None, transient, tolerance, weight, memory)
    along = None if probes is None else (probes.state, probes.inputs)
    leaves, spec = _differentiable_leaves((_arguments(system, basis), along))
    return _Objective.apply(plan, interval, spec, target, *leaves)  # pyright: ignore[reportReturnType]


def _arguments(system: ModuleSystem, basis: Tensor) -> Any:
    lengths = None if system.lengths is None else torch.tensor(system.lengths, dtype=torch.int32)
    return system.recurrent.layers, system.state, system.inputs, basis, lengths


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, interval: int, spec: Any, *leaves: Tensor | None):
        wanted = ctx.needs_input_grad[3:]
        with settings(leaves):
            run = _flow_and_pull(plan, interval, *_split(leaves, wanted, spec), linearise=any(wanted))
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


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="linearise")
def _flow_and_pull(plan: Plan, interval: int, moving: Any, fixed: Any, *, linearise: bool):
    def measure(problem, basis, *, count, **options):
        flow = tangent_flow(problem, basis, interval=interval, **options)
        return Flow(*(flow if count is None else flow.up_to(count, interval)))

    # The pullback is a pytree of residuals, so compiled code can return it.
    def run(moving):
        return _each_sequence(measure, plan, _merged(moving, fixed))

    return jax.vjp(run, moving) if linearise else (run(moving), None)


@jax.jit
def _pull(pull: Any, cotangents: Any):
    return pull(cotangents)[0]


@functools.cache
def _jitted_loss_and_gradient() -> Callable:
    return jax.jit(_loss_and_gradient, static_argnums=0, compiler_options=compiler_options())


def _loss_and_gradient(plan: Plan, interval: jax.Array, target: Any, moving: Any, fixed: Any):
    measure = functools.partial(measure_window, interval=interval, tolerance=plan.tolerance)

    def loss(moving):
        arguments, along = _merged(moving, fixed)
        exponents, ratios = _each_sequence(measure, plan, arguments)
        distance = exponents - jnp.broadcast_to(target, exponents.shape)
        value = plan.weight * jnp.mean(jnp.square(distance))
        if plan.memory is not None:
            value += 1 - _memory(plan, arguments[0], *along)
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


def _each_sequence(measure: Callable, plan: Plan, arguments: Any) -> Any:
    layers, state, inputs, basis, lengths = arguments
    drive = _drive(layers, inputs)

    def step(layers, state, drive):
        return advance(FUNCTIONS, plan.kind, layers, state, drive)

    steps = drive.shape[-2]
    transient = default_transient(steps) if plan.transient is None else plan.transient

    def one(state, drive, length):
        if length is None:
            return measure(Problem.of(layers, state, drive, step, steps), basis, transient=transient, count=None)
        inputs, count = shifted(drive, length, steps, plan.transient)
        return measure(Problem.of(layers, state, inputs, masked(step), steps), basis, transient=transient, count=count)

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
