"""Which leaves of a model are flossed, and whether two trees are alike."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def mask_of(model: PyTree, where: Callable | None) -> PyTree:
    """`model` with True at the leaves that `where` selects, at all floating arrays by default, and False elsewhere."""
    if where is None:
        mask = jax.tree_util.tree_map(eqx.is_inexact_array, model)
        if not any(jax.tree_util.tree_leaves(mask)):
            raise ValueError("model must hold a floating array to floss, got none")
        return mask
    nothing = jax.tree_util.tree_map(lambda _: False, model)
    mask = eqx.tree_at(where, nothing, replace_fn=lambda _: True)
    chosen = jax.tree_util.tree_leaves(eqx.filter(model, mask))
    if not chosen or not all(map(eqx.is_inexact_array, chosen)):
        got = "a leaf that is not one" if chosen else "none"
        raise ValueError(f"where must select floating arrays of the model, got {got}")
    return mask


def same_structure(one: PyTree, other: PyTree) -> bool:
    """Whether two trees have the same nodes, and arrays of the same shapes and dtypes at the same leaves."""
    return _structure(one) == _structure(other)


def _structure(tree: PyTree) -> tuple:
    leaves, nodes = jax.tree_util.tree_flatten(tree)
    return nodes, [(jnp.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves]
