"""The arrays of a model by name, and a model with arrays that were stored."""

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flossing._train import array_name

Model = TypeVar("Model")


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a model by name."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {array_name(path): np.asarray(leaf) for path, leaf in leaves}


def with_parameters(model: Model, parameters: Mapping[str, np.ndarray]) -> Model:
    """`model` with the arrays of `parameters`; ValueError if one is missing or of another shape."""

    def stored(path, leaf):
        array = parameters.get(array_name(path))
        if array is None or array.shape != leaf.shape:
            found = "nothing" if array is None else f"shape {array.shape}"
            raise ValueError(f"parameters.npz must hold {array_name(path)} of shape {leaf.shape}, got {found}")
        return jnp.asarray(array, leaf.dtype)

    return jax.tree_util.tree_map_with_path(stored, model)
