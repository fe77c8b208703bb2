"""A mesh of devices around a call: `jax.shard_map`, or `jax.set_mesh` with explicit axes.

JAX then checks that the carry of a loop has one type before and after each step, and the type says how a value lies on
the mesh. Inside `shard_map` it names the axes over which the value varies: a constant varies over none, so a state of
zeros, say, would change its type in the first step. Only axes of the arguments count: if a value varied over too many,
its gradient would be summed over them. With explicit axes, a constant made outside the mesh does not belong to it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

Tree = TypeVar("Tree", bound=PyTree)


def varying(tree: Tree, *like: Any) -> Tree:
    """`tree` on the mesh, also varying over all axes over which a leaf of `like` varies; itself where no mesh is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.explicit_axes:
        tree = jax.tree_util.tree_map(_joined, tree)
    if not mesh.manual_axes:
        return tree
    axes = frozenset().union(*map(_axes, jax.tree_util.tree_leaves(like)))

    def widened(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree_util.tree_map(widened, tree)


def inside_shard_map() -> bool:
    """Whether values may vary over axes of a mesh."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def with_automatic_axes(function: Callable, spec: PartitionSpec) -> Callable:
    """`function` with explicit axes made automatic, for what JAX only does there; `spec` says how its result lies."""
    axes = jax.sharding.get_abstract_mesh().explicit_axes
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=spec) if axes else function


def spec_of(array: Any) -> PartitionSpec:
    """How `array` lies on the mesh."""
    return jax.typeof(array).sharding.spec


def _joined(leaf: Any) -> Any:
    return jax.sharding.reshard(leaf, PartitionSpec()) if jax.typeof(leaf).sharding.mesh.empty else leaf


def _axes(leaf: Any) -> frozenset[str]:
    aval = leaf if hasattr(leaf, "manual_axis_type") else jax.typeof(leaf)  # an abstract value has no type itself
    return frozenset() if aval.manual_axis_type is None else aval.manual_axis_type.varying
