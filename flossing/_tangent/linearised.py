"""A step of the tangent flow, linearised: its pullback as arrays, which a loop can keep and use later.

A pullback of JAX is a pytree. Some of its leaves follow the point where the step was taken; others, such as weights,
are the same in every step, and a loop must not keep them step by step. Which are which is read off the traced program.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._tangent.coordinates import Coordinates
from flossing._tangent.flow import push_once
from flossing._types import Input, Step


class LinearisedStep:
    """One step from `x, rest` with tangents `q` (rows), and its pullback: of (x', A) to (step and input, x, q).

    `of` is the place of any one of the steps, `(x, rest), input, q`: it tells the shapes. What the reverse pass needs
    of a product is kept, and what is cheap is computed again.
    """

    def __init__(self, step: Step, coordinates: Coordinates, *of: Any):
        self._step, self._coordinates = step, coordinates
        leaves, self._structure = jax.tree_util.tree_flatten(self._linearise(*of)[1])
        self._follows = _follow(lambda *of: jax.tree_util.tree_leaves(self._linearise(*of)[1]), *of)
        self._same = [leaf for leaf, follows in zip(leaves, self._follows, strict=True) if not follows]
        self.shapes = [leaf for leaf, follows in zip(leaves, self._follows, strict=True) if follows]

    def __call__(self, *of: Any) -> tuple[Float[Array, "k N"], list[Array]]:
        """The tangents after the step, and what `pullback` needs to know of it."""
        a, pullback = self._linearise(*of)
        leaves = jax.tree_util.tree_leaves(pullback)
        return a, [leaf for leaf, follows in zip(leaves, self._follows, strict=True) if follows]

    def pullback(self, kept: list[Array]) -> Callable:
        """The pullback of the step that left `kept`."""
        following, same = iter(kept), iter(self._same)
        leaves = [next(following if follows else same) for follows in self._follows]
        return jax.tree_util.tree_unflatten(self._structure, leaves)

    def _linearise(self, point: tuple[Float[Array, " N"], list[Any]], input: Input, q: Float[Array, "k N"]):
        x, rest = point
        arrays, others = eqx.partition((self._step, input), eqx.is_inexact_array)

        def push(arrays, x, q):
            step, input = eqx.combine(arrays, others)
            x, _, a = push_once(step, self._coordinates, x, rest, q, input)
            return x, a

        push = jax.checkpoint(push, policy=_real_products, prevent_cse=False)
        (_, a), pullback = jax.vjp(push, arrays, x, q)
        return a, pullback


def _real_products(primitive: Any, *of: Any, **how: Any) -> bool:
    """What is kept for the reverse pass; complex products are computed again, as `jax.checkpoint` cannot keep them."""
    real = not any(jnp.issubdtype(operand.dtype, jnp.complexfloating) for operand in of)
    return real and jax.checkpoint_policies.dots_saveable(primitive, *of, **how)


def _follow(function: Callable[..., list[Array]], *arguments: Any) -> list[bool]:
    """Which results depend on the arguments, not alone on what the function closes over."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    following = set(jaxpr.invars)

    def follows(variable) -> bool:
        return isinstance(variable, jax.extend.core.Var) and variable in following

    for equation in jaxpr.eqns:
        if any(map(follows, equation.invars)):
            following.update(equation.outvars)
    return [follows(variable) for variable in jaxpr.outvars]
