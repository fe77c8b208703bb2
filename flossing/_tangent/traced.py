"""Trace a step, so that equal steps share compiled programs and closed-over arrays become arguments.

A plain function may close over arrays that are rebound between two calls. A cache keyed by the identity of the function
would then return stale numbers, and without a cache every call would compile. Here every call traces the step, which
takes milliseconds, and programs are cached by the traced computation.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import PyTree

from flossing._linalg.precision import in_full_precision
from flossing._types import Input, State

Arrays = tuple[list[Any], list[Any]]
"""The arguments of a traced step besides state and input: the arrays it closes over, and those of its model."""


class TracedStep:
    """`step(arrays, state, input) -> state`, traced once; equal to another if both compute the same.

    Two steps are equal if their jaxprs and those of their derivatives are equal. Derivatives count because the rules of
    `jax.custom_jvp` are functions, and only their jaxprs can be compared. Any other function within a jaxpr is compared
    by identity.
    """

    def __init__(self, jaxpr: Jaxpr, structure: Any):
        self._jaxpr, self._structure = jaxpr, structure
        self._hash = hash((tuple(equation.primitive for equation in jaxpr.eqns), structure))

    def __call__(self, arrays: Arrays, state: State, input: Input) -> State:
        constants, leaves = arrays
        run = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, constants))
        return jax.tree_util.tree_unflatten(self._structure, run(*leaves, *jax.tree_util.tree_leaves((state, input))))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, TracedStep) or (self._hash, self._structure) != (other._hash, other._structure):
            return False
        return _same(self._jaxpr, other._jaxpr) and _same(self._derivative, other._derivative)

    def __hash__(self) -> int:
        return self._hash

    def repeats(self, again: "TracedStep", arrays: Arrays, others: Arrays) -> bool:
        """Whether a second trace of the same step gave the same computation, on the same arrays."""
        return _repeats(self._jaxpr, again._jaxpr) and all(map(_same_constant, arrays[0], others[0]))

    def uses(self, number: int) -> list[bool]:
        """Whether the result depends on each of the first `number` arguments, those of the model; an inner function
        counts as depending on all of its arguments."""
        live = set(filter(_is_variable, self._jaxpr.outvars))
        for equation in reversed(self._jaxpr.eqns):
            if live & set(equation.outvars):
                live |= set(filter(_is_variable, equation.invars))
        return [variable in live for variable in self._jaxpr.invars[:number]]

    @functools.cached_property
    def _derivative(self) -> Any:
        with contextlib.suppress(Exception):
            forward = _differentiate(self._jaxpr)
            # A custom reverse rule has no forward derivative, only a mark of where it would be.
            if not any(equation.primitive.name == "custom_lin" for equation in forward.jaxpr.eqns):
                return forward
        with contextlib.suppress(Exception):
            return _differentiate_backwards(self._jaxpr)
        return self  # without a derivative it equals no other step


@in_full_precision
def trace_step(
    step: Callable[[Any, State, Input], State], model: PyTree, state: State, input: Input
) -> tuple[TracedStep, Arrays, State]:
    """Trace `step(model, state, input)` -> the traced step, its arrays, and the types of its result.

    `state` and `input` may be arrays or shapes and dtypes. Exceptions of the step propagate.
    """
    leaves, rest = eqx.partition(model, eqx.is_array)
    leaves, model_structure = jax.tree_util.tree_flatten(leaves)
    points, structure = jax.tree_util.tree_flatten((state, input))
    returned: list[Any] = []

    def flat(leaves, points):
        model = eqx.combine(jax.tree_util.tree_unflatten(model_structure, leaves), rest)
        out = step(model, *jax.tree_util.tree_unflatten(structure, points))
        returned.append(out)
        return jax.tree_util.tree_leaves(out)

    closed = jax.make_jaxpr(flat)(leaves, points)
    types = jax.tree_util.tree_map(_type_of, returned[-1])

    traced = TracedStep(closed.jaxpr, jax.tree_util.tree_structure(types))
    return traced, (list(closed.consts), leaves), types


def is_traced_equally(function: Callable, *arguments: Any) -> bool:
    """Whether `function` computes the same when it is traced twice; a function that draws from NumPy does not."""
    # JAX keeps the trace of a function it has seen, so each trace is of a new one.
    first, second = (jax.make_jaxpr(lambda *values: function(*values))(*arguments) for _ in range(2))
    return _repeats(first, second)


def _repeats(one: Any, other: Any) -> bool:
    """Whether two traces of one function, or two parameters of their equations, hold the same operations and numbers.

    Functions and other objects inside are created anew by every trace, and count as the same.
    """
    if isinstance(one, ClosedJaxpr):
        return _repeats(one.jaxpr, other.jaxpr) and all(map(_same_constant, one.consts, other.consts))
    if isinstance(one, Jaxpr):
        return len(one.eqns) == len(other.eqns) and all(map(_repeats_equation, one.eqns, other.eqns))
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_repeats, one, other))
    if isinstance(one, (np.ndarray, np.generic, jax.Array, bool, int, float, complex, str)):
        return type(one) is type(other) and _same_constant(one, other)
    return True


def _repeats_equation(one: Any, other: Any) -> bool:
    literals = zip(one.invars, other.invars, strict=False)
    return (
        one.primitive is other.primitive
        and all(_same_constant(a.val, b.val) for a, b in literals if isinstance(a, Literal) and isinstance(b, Literal))
        and all(_repeats(value, other.params.get(name)) for name, value in one.params.items())
    )


def _same_constant(one: Any, other: Any) -> bool:
    if one is other or isinstance(one, Tracer) or isinstance(other, Tracer):
        return True
    if hasattr(one, "dtype") and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    one, other = np.asarray(one), np.asarray(other)
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _is_variable(variable: Any) -> bool:
    return not isinstance(variable, Literal)


def _type_of(leaf: Any) -> Any:
    return jax.typeof(leaf) if hasattr(leaf, "dtype") else leaf


def _differentiate(jaxpr: Jaxpr) -> ClosedJaxpr:
    """The derivative of `jaxpr` along all its floating arguments."""
    avals: list[Any] = [variable.aval for variable in (*jaxpr.constvars, *jaxpr.invars)]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    is_floating = [jax.numpy.issubdtype(shape.dtype, jax.numpy.inexact) for shape in shapes]

    def along(values, tangents):
        def run(moving):
            moving = iter(moving)
            values_now = [next(moving) if floats else value for floats, value in zip(is_floating, values, strict=True)]
            split = len(jaxpr.constvars)
            return jaxpr_as_fun(ClosedJaxpr(jaxpr, values_now[:split]))(*values_now[split:])

        moving = [value for floats, value in zip(is_floating, values, strict=True) if floats]
        return jax.jvp(run, (moving,), (tangents,))

    return jax.make_jaxpr(along)(shapes, [shape for floats, shape in zip(is_floating, shapes, strict=True) if floats])


def _differentiate_backwards(jaxpr: Jaxpr) -> ClosedJaxpr:
    """The pullback of `jaxpr` to all its floating arguments."""
    avals: list[Any] = [variable.aval for variable in (*jaxpr.constvars, *jaxpr.invars)]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    split = len(jaxpr.constvars)

    def pull(values):
        run = lambda *values: jaxpr_as_fun(ClosedJaxpr(jaxpr, values[:split]))(*values[split:])  # noqa: E731
        returned, pullback = eqx.filter_vjp(lambda values: run(*values), values)
        return pullback(jax.tree_util.tree_map(jnp.ones_like, eqx.filter(returned, eqx.is_inexact_array)))

    return jax.make_jaxpr(pull)(shapes)


def _same(one: Any, other: Any) -> bool:
    """Whether two parameters of equations, or two jaxprs, are the same."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, ClosedJaxpr):
        return _same(one.jaxpr, other.jaxpr) and _same(list(one.consts), list(other.consts))
    if isinstance(one, Jaxpr):
        return _same_jaxpr(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, jax.Array):  # a large constant of an inner function: do not compare its values
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)  # 0.0 is not -0.0, and NaN is NaN
    try:
        return bool(one == other)
    except Exception:  # objects that cannot be compared count as different
        return False


def _same_jaxpr(one: Jaxpr, other: Jaxpr) -> bool:
    if (len(one.eqns), len(one.invars), len(one.constvars)) != (
        len(other.eqns),
        len(other.invars),
        len(other.constvars),
    ):
        return False
    partner: dict[Any, Any] = {}

    def meet(a: Any, b: Any) -> bool:
        if isinstance(a, Literal) or isinstance(b, Literal):
            return isinstance(a, Literal) and isinstance(b, Literal) and a.aval == b.aval and _same(a.val, b.val)
        return partner.get(a) is b

    def pair(ours: Any, theirs: Any) -> bool:
        for a, b in zip(ours, theirs, strict=True):
            partner[a] = b
        return all(a.aval == b.aval for a, b in zip(ours, theirs, strict=True))

    if not (pair(one.invars, other.invars) and pair(one.constvars, other.constvars)):
        return False
    for a, b in zip(one.eqns, other.eqns, strict=True):
        if a.primitive is not b.primitive or (len(a.invars), len(a.outvars)) != (len(b.invars), len(b.outvars)):
            return False
        if not all(map(meet, a.invars, b.invars)) or not _same(_compared(a), _compared(b)):
            return False
        if not pair(a.outvars, b.outvars):
            return False
    return len(one.outvars) == len(other.outvars) and all(map(meet, one.outvars, other.outvars))


def _compared(equation: Any) -> dict[str, Any]:
    # The rules of a custom derivative are functions, created again by every trace; the jaxpr of the derivative covers
    # them.
    if equation.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return {name: value for name, value in equation.params.items() if name not in _RULES}
    return equation.params


_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees")
"""Parameters of custom derivatives that hold their rules."""
