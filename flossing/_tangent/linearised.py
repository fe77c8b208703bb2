"""Linearise a step of the tangent flow: its pullback as arrays, which a loop can store and use later.

A JAX pullback is a pytree. Some of its leaves depend on the point where the step was taken. Others, such as weights,
are the same in every step, and a loop must not store them for each step. The traced program shows which are which.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._tangent.problem import Point, Problem
from flossing._types import Input


class LinearisedStep:
    """One step with tangents `q` (rows), and its pullback: of (x', A) to (model and input, x, q).

    `example` is any `(point, input, q)`, for its shapes. Results of products are stored for the reverse pass; cheap
    operations are recomputed.
    """

    def __init__(self, problem: Problem, *example: Any):
        self._problem = problem
        leaves, self._structure = jax.tree_util.tree_flatten(self._linearise(*example)[1])
        self._varies = _depends_on_arguments(lambda *at: jax.tree_util.tree_leaves(self._linearise(*at)[1]), *example)
        self._constant = [leaf for leaf, varies in zip(leaves, self._varies, strict=True) if not varies]
        self.shapes = [leaf for leaf, varies in zip(leaves, self._varies, strict=True) if varies]

    def __call__(self, *at: Any) -> tuple[Float[Array, "k N"], list[Array]]:
        """The tangents after the step, and its residuals, the arrays that `pullback` needs."""
        a, pullback = self._linearise(*at)
        leaves = jax.tree_util.tree_leaves(pullback)
        return a, [leaf for leaf, varies in zip(leaves, self._varies, strict=True) if varies]

    def pullback(self, residuals: list[Array]) -> Callable:
        """The pullback of the step with these residuals."""
        varying, constant = iter(residuals), iter(self._constant)
        leaves = [next(varying if varies else constant) for varies in self._varies]
        return jax.tree_util.tree_unflatten(self._structure, leaves)

    def _linearise(self, point: Point, input: Input, q: Float[Array, "k N"]):
        arrays, others = eqx.partition((self._problem.model, input), eqx.is_inexact_array)

        def push(arrays, x, q):
            model, input = eqx.combine(arrays, others)
            problem = eqx.tree_at(lambda p: p.model, self._problem, model)
            (x, _), a = problem.push(Point(x, point.nondiff), q, input)
            return x, a

        push = jax.checkpoint(push, policy=_real_products, prevent_cse=False)
        (_, a), pullback = jax.vjp(push, arrays, point.x, q)
        return a, pullback


def _real_products(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """The results to store for the reverse pass: real products. `jax.checkpoint` cannot store complex ones."""
    real = not any(jnp.issubdtype(operand.dtype, jnp.complexfloating) for operand in operands)
    return real and jax.checkpoint_policies.dots_saveable(primitive, *operands, **parameters)


def _depends_on_arguments(function: Callable[..., list[Array]], *arguments: Any) -> list[bool]:
    """Which results depend on the arguments, not only on what the function closes over."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    dependent = set(jaxpr.invars)

    def depends(variable) -> bool:
        return isinstance(variable, jax.extend.core.Var) and variable in dependent

    for equation in jaxpr.eqns:
        if any(map(depends, equation.invars)):
            dependent.update(equation.outvars)
    return [depends(variable) for variable in jaxpr.outvars]
