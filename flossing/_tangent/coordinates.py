"""A state as a point of R^N: which of its leaves have tangents, and in which order."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._linalg.mesh import inside_shard_map
from flossing._types import State


class Coordinates:
    """The map between a state (any pytree) and its real coordinates, a vector of R^N.

    Floating leaves are raveled in the order of the tree; a complex leaf gives its real parts, then its imaginary parts.
    Other leaves (random keys, counters) have no tangent: `split` returns them as `nondiff`. Two maps are equal if
    their states have the same structure, shapes and dtypes.
    """

    def __init__(self, state: State):
        leaves, self._treedef = jax.tree_util.tree_flatten(state)
        self._leaves = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        dtypes = {jnp.finfo(leaf.dtype).dtype for leaf in self._leaves if _is_floating(leaf)}
        if not dtypes:
            raise ValueError(f"state must have a floating leaf to have a tangent space, got {self.describe()}")
        if len(dtypes) > 1:
            raise ValueError(f"state must have floating leaves of one precision, got {self.describe()}")
        (self.dtype,) = dtypes
        if self.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(f"state must be of float32 or float64, got {self.describe()}")
        self.size = sum(_coordinate_count(leaf) for leaf in self._leaves)
        if not self.size:
            raise ValueError(f"state must have at least one coordinate, got {self.describe()}")

    def split(self, state: State) -> tuple[Float[Array, " N"], list[Any]]:
        """`state` -> its coordinates (N,), and the leaves that have none."""
        leaves = jax.tree_util.tree_leaves(state)
        parts = [part for leaf in leaves if _is_floating(leaf) for part in _real_parts(leaf)]
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0], [x for x in leaves if not _is_floating(x)]

    def join(self, x: Float[Array, " N"], nondiff: list[Any]) -> State:
        """The inverse of `split`."""
        others = iter(nondiff)
        leaves, start = [], 0
        for leaf in self._leaves:
            if not _is_floating(leaf):
                leaves.append(next(others))
                continue
            stop = start + _coordinate_count(leaf)
            leaves.append(_from_real(x[start:stop], leaf))
            start = stop
        return jax.tree_util.tree_unflatten(self._treedef, leaves)

    def matches(self, state: State) -> bool:
        """Whether `state` has the structure, shapes and dtypes of these coordinates."""
        leaves, treedef = jax.tree_util.tree_flatten(state)
        kinds = [(getattr(leaf, "shape", None), getattr(leaf, "dtype", None)) for leaf in leaves]
        return treedef == self._treedef and kinds == [(leaf.shape, leaf.dtype) for leaf in self._leaves]

    def describe(self) -> str:
        """The structure in one line, for error messages."""
        return describe_structure(jax.tree_util.tree_unflatten(self._treedef, self._leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coordinates) and (self._treedef, self._leaves) == (other._treedef, other._leaves)

    def __hash__(self) -> int:
        return hash((self._treedef, self._leaves))


def real_coordinates(tree: Any) -> Float[Array, " n"]:
    """The real coordinates of all floating leaves of a pytree, in the order of `Coordinates`; none if it has none."""
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(tree) if _is_floating(leaf)]
    return jnp.concatenate([part for leaf in leaves for part in _real_parts(leaf)]) if leaves else jnp.zeros(0)


def shifted_by(tree: Any, shift: Float[Array, " n"]) -> Any:
    """`tree` with a vector added to its real coordinates."""
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    start = 0
    for index, leaf in enumerate(leaves):
        if _is_floating(leaf):
            stop = start + _coordinate_count(leaf)
            leaves[index] = leaf + _from_real(shift[start:stop], leaf)
            start = stop
    return jax.tree_util.tree_unflatten(treedef, leaves)


def shape_of_one(inputs: Any) -> Any:
    """Shapes and dtypes of the input of one step, where the leaves of `inputs` have a leading time axis."""
    if inside_shard_map():  # where a type also says over which axes it varies
        return jax.eval_shape(lambda inputs: jax.tree_util.tree_map(lambda s: s[0], inputs), inputs)
    return jax.tree_util.tree_map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), inputs)


def describe_structure(tree: Any) -> str:
    """A pytree with each array written as `dtype[shape]`."""
    return str(jax.tree_util.tree_map(_ShapeRepr, tree))


class _ShapeRepr:
    def __init__(self, leaf):
        if not hasattr(leaf, "dtype"):
            self._text = repr(leaf)
            return
        self._text = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    def __repr__(self):
        return self._text


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_complex(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def _coordinate_count(leaf) -> int:
    return (_is_floating(leaf) + _is_complex(leaf)) * math.prod(leaf.shape)


def _real_parts(leaf: Array) -> list[Array]:
    return [jnp.real(leaf).ravel(), jnp.imag(leaf).ravel()] if _is_complex(leaf) else [jnp.ravel(leaf)]


def _from_real(x: Array, leaf: Any) -> Array:
    if _is_complex(leaf):
        real, imaginary = jnp.split(x, 2)
        return jax.lax.complex(real, imaginary).reshape(leaf.shape)
    return x.reshape(leaf.shape)
