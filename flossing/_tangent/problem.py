"""The problem behind every measurement along an orbit: a step, its start and its inputs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from flossing._checks import check_integer, check_key, check_leaves, is_concrete
from flossing._linalg.mesh import inside_shard_map, varying
from flossing._linalg.qr import orthonormalise
from flossing._tangent.coordinates import (
    Coordinates,
    describe_structure,
    real_coordinates,
    shape_of_one,
    shifted_by,
)
from flossing._tangent.step import ExplicitStep, argument_order_hint, check_order, input_hint, read_step, zero_state
from flossing._tangent.traced import trace_step
from flossing._types import Input, RandomKey, State


class Point(NamedTuple):
    """A state: its coordinates x (N,), and the leaves without coordinates."""

    x: Float[Array, " N"]
    nondiff: list[Any]


class Problem(eqx.Module):
    """A system along one sequence: h_t = step(model, h_{t-1}, input_t), t = 1 ... `length`, from `start`.

    Every measurement is a function of a `Problem`. `inputs` has a leading time axis of `length`, or no
    leaves for an autonomous system. The dynamics of a state are those of its coordinates; D is the Jacobian of a step.
    `subspace` (N, m), if given, has orthonormal columns, and tangents are projected onto their span after each step.
    """

    model: PyTree
    start: Point
    inputs: Input
    step: ExplicitStep = eqx.field(static=True)
    coordinates: Coordinates = eqx.field(static=True)
    length: int = eqx.field(static=True)
    subspace: Float[Array, "N m"] | None = None

    @classmethod
    def of(
        cls,
        model: PyTree,
        state: State,
        inputs: Input,
        step: ExplicitStep,
        length: int,
        subspace: Float[Array, "N m"] | None = None,
    ) -> "Problem":
        """A problem from arguments known to be consistent; arrays or tracers."""
        coordinates = Coordinates(state)
        state = varying(state, eqx.filter(model, eqx.is_array), inputs)
        if inside_shard_map():  # also over the axes of arrays that the step closes over
            state = varying(state, trace_step(step, model, state, shape_of_one(inputs))[2])
        return cls(model, Point(*coordinates.split(state)), inputs, step, coordinates, length, subspace)

    def advance(self, point: Point, input: Input) -> Point:
        """The point after a step."""
        state = self.coordinates.join(*point)
        return varying(Point(*self.coordinates.split(self.step(self.model, state, input))), point)

    def push(self, point: Point, tangents: Float[Array, "k N"], input: Input) -> tuple[Point, Float[Array, "k N"]]:
        """The point after a step, and D times each tangent, by forward-mode differentiation where the step has it.

        Tangents are rows. This is the memory layout that LAPACK expects for the columns of A, and products with a
        Jacobian or its transpose need no copy. At N = 256, k = 64 it halves the time of the products.
        """

        def flow(x):
            return self.advance(Point(x, point.nondiff), input)

        x, tangents, nondiff = _push_through(flow, point.x, tangents)
        return Point(x, nondiff), self.project(tangents)

    def response(self, point: Point, input: Input) -> Float[Array, "N S"]:
        """The derivative of a step with respect to the S real coordinates of its input."""

        def flow(shift):
            return self.advance(point, shifted_by(input, shift))

        zero = varying(jnp.zeros_like(real_coordinates(input)), point)
        return _push_through(flow, zero, jnp.eye(len(zero), dtype=zero.dtype))[1].T

    def project(self, tangents: Float[Array, "k N"]) -> Float[Array, "k N"]:
        """Tangents within the subspace; all of them if there is none."""
        return tangents if self.subspace is None else tangents @ self.subspace @ self.subspace.T

    def push_many(
        self, point: Point, tangents: Float[Array, "k N"], inputs: Input, size: int
    ) -> tuple[Point, Float[Array, "k N"]]:
        """`push` through `size` steps along `inputs`."""

        def push(carry, input):
            point, tangents = carry
            return self.push(point, tangents, input), None

        return lax.scan(push, (point, tangents), inputs, length=size, unroll=size == 1)[0]

    def pull(self, point: Point, input: Input) -> Callable[[Float[Array, " N"]], Float[Array, " N"]]:
        """The function that maps u to D^T u, by reverse-mode differentiation."""
        _, transpose = jax.vjp(lambda x: self.advance(Point(x, point.nondiff), input).x, point.x)
        return lambda u: transpose(u)[0]

    def orbit(self) -> tuple[Point, Point]:
        """The points before each step, stacked on a leading axis of `length`, and the point after the last."""

        def advance(point, input):
            return self.advance(point, input), point

        end, before = lax.scan(advance, self.start, self.inputs, length=self.length)
        return before, end

    def states(self) -> tuple[Float[Array, "T N"], Point]:
        """The coordinates after each step, and the point after the last."""
        before, end = self.orbit()
        return jnp.concatenate([before.x[1:], end.x[None]]), end

    def state(self, point: Point) -> State:
        """The state at a point."""
        return self.coordinates.join(*point)

    def inputs_between(self, start: int, stop: int) -> Input:
        """The inputs of the steps `start` to `stop - 1`."""
        return jax.tree_util.tree_map(lambda s: s[start:stop], self.inputs)

    def with_orbit(self, start: Point, inputs: Input, length: int) -> "Problem":
        """The same step from another start, over the first `length` steps of other inputs."""
        inputs = jax.tree_util.tree_map(lambda s: s[:length], inputs)
        return dataclasses.replace(self, start=varying(start, self.start), inputs=inputs, length=length)

    def closed(self) -> "Problem":
        """The same problem, with the arrays that the step closes over as part of `model`."""
        first = shape_of_one(self.inputs)
        step, arrays, _ = trace_step(self.step, self.model, self.state(self.start), first)
        return dataclasses.replace(self, model=arrays, step=step)


_NO_FORWARD_RULE = (TypeError, ValueError, RuntimeError)
"""The exceptions of JAX, Equinox and diffrax for an operation without a forward derivative."""


def _push_through(
    flow: Callable, x: Float[Array, " n"], tangents: Float[Array, "k n"]
) -> tuple[Float[Array, " m"], Float[Array, "k m"], Any]:
    """`flow(x)`, which returns a value and something without a derivative, and the derivative along each tangent."""

    def along(v):
        return jax.jvp(flow, (x,), (v,), has_aux=True)

    try:
        return jax.vmap(along, out_axes=(None, 0, None))(tangents)
    except _NO_FORWARD_RULE as error:
        return _push_by_rows(flow, x, tangents, error)


def _push_by_rows(
    flow: Callable, x: Float[Array, " n"], tangents: Float[Array, "k n"], error: Exception
) -> tuple[Float[Array, " m"], Float[Array, "k m"], Any]:
    """For a step with a reverse rule alone, such as a surrogate spike: its Jacobian by reverse mode, row by row."""
    try:
        x, pull, nondiff = jax.vjp(flow, x, has_aux=True)
        (jacobian,) = jax.vmap(pull)(jnp.eye(len(x), dtype=x.dtype))
    except _NO_FORWARD_RULE:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"step must have a derivative, in forward or in reverse mode, got {reason}") from error
    return x, tangents @ jacobian.T, nondiff


def set_up(
    model: PyTree,
    inputs: Input,
    *,
    state: State,
    step: Any = None,
    steps: int | None = None,
    steps_name: str = "steps",
) -> Problem:
    """Check the arguments that all measurements share -> the problem they describe; errors as in `lyapunov_spectrum`.

    The step is traced twice, to check that it is pure, and the arrays it closes over become arguments. A later call
    with the same shapes reuses the compiled program if its step computes the same, whatever its arrays.
    """
    call = read_step(model, step)
    check_leaves("model", eqx.filter(model, eqx.is_array))
    state = zero_state(model) if state is None else state
    check_leaves("state", state)
    check_leaves("inputs", inputs)
    state, inputs = jax.tree_util.tree_map(jnp.asarray, (state, inputs))
    length = sequence_length(inputs, steps, steps_name)
    inputs = jax.tree_util.tree_map(lambda s: s[:length], inputs)
    coordinates = Coordinates(state)
    state = varying(state, eqx.filter(model, eqx.is_array), inputs)
    traced, arrays, returned = check_step(model, state, inputs, call, coordinates, is_explicit=step is not None)
    if inside_shard_map():  # also over the axes of arrays that the step closes over
        state = varying(state, returned)
        traced, arrays, _ = trace_step(call, model, state, shape_of_one(inputs))
    return Problem(arrays, Point(*coordinates.split(state)), inputs, traced, coordinates, length)


_MISMATCH_ERRORS = (TypeError, ValueError, AttributeError, LookupError)
"""The exceptions that Python and JAX raise for mismatched shapes, dtypes or structures."""


def check_step(
    model: PyTree, state: State, inputs: Input, step: ExplicitStep, coordinates: Coordinates, *, is_explicit: bool
):
    """Trace the step; ValueError unless it maps a state to a state of the same structure, shapes and dtypes."""
    first = shape_of_one(inputs)

    def accepts(step: ExplicitStep) -> bool:
        try:
            return coordinates.matches(trace_step(step, model, state, first)[2])
        except Exception:  # any exception means that this is not the order of arguments
            return False

    if not is_explicit:
        check_order(model, accepts)
    try:
        traced, arrays, returned = trace_step(step, model, state, first)
    except _MISMATCH_ERRORS as error:  # its traceback stays attached
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"step must accept a state like {coordinates.describe()} and an input like {describe_structure(first)}, "
            f"got {reason}{'' if is_explicit else argument_order_hint(model, accepts) or input_hint(model, first)}"
        ) from error
    if not coordinates.matches(returned):
        raise ValueError(
            f"step must return a state like the one it was given, {coordinates.describe()}, "
            f"got {describe_structure(returned)}{'' if is_explicit else argument_order_hint(model, accepts)}"
        )
    again, others, _ = trace_step(step, model, state, first)
    if not traced.repeats(again, arrays, others):
        raise ValueError(
            "step must be a pure function of its arguments, got one that computes something else when it is traced "
            "again: pass counters in the state, and noise or random keys with the inputs"
        )
    return traced, arrays, returned


def sequence_length(inputs: Input, steps: int | None = None, name: str = "steps") -> int:
    """The number of steps to run: `steps`, or the length of the leading time axis of `inputs`."""
    leaves = jax.tree_util.tree_leaves_with_path(inputs)
    if not leaves:
        if steps is None:
            raise ValueError(f"{name} must be given for an autonomous system (inputs=None), got {name}=None")
        check_integer(name, steps, least=1)
        return int(steps)
    lengths = {}
    for path, leaf in leaves:
        label = "inputs" + jax.tree_util.keystr(path)
        if leaf.ndim == 0:
            raise ValueError(f"{label} must have a leading time axis, got a scalar")
        lengths[label] = leaf.shape[0]
    length = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        raise ValueError(f"inputs must share one leading time axis, got lengths {lengths}")
    if length == 0:
        raise ValueError("inputs must have at least one time step, got length 0")
    if steps is None:
        return length
    check_integer(name, steps, least=1, most=length, note=f" (inputs have {length} steps)")
    return int(steps)


def initial_basis(
    coordinates: Coordinates,
    *,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: Any = None,
) -> Float[Array, "N k"]:
    """The orthonormal basis (N, k) that `lyapunov_spectrum` starts from; errors as there."""
    size = coordinates.size
    if k is not None:
        check_integer("k", k, least=1, most=size, note=f" (the state has {size} real coordinates)")
    check_key("key", key)
    if basis is None:
        key = jax.random.key(0) if key is None else key
        return _random_basis(key, size, size if k is None else k, coordinates.dtype)
    check_leaves("basis", basis)
    shape = jnp.shape(basis)
    if len(shape) != 2 or shape[0] != size or not 1 <= shape[1] <= size or k not in (None, shape[1]):
        legal = f"({size}, k) with k = {k or f'1 to {size}'}"
        raise ValueError(f"basis must have shape {legal} for this state, got shape {shape}")
    q, log_r = orthonormalise(jnp.asarray(basis, coordinates.dtype))
    if is_concrete(log_r) and not jnp.isfinite(log_r).all():
        column = int(jnp.argmin(jnp.isfinite(log_r)))
        raise ValueError(f"basis must have linearly independent columns, got column {column} dependent on earlier ones")
    return q


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _random_basis(key: RandomKey, size: int, k: int, dtype: Any) -> Float[Array, "N k"]:
    return orthonormalise(jax.random.normal(key, (size, k), dtype))[0]
