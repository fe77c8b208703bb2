"""Argument checks with one-line errors that name the argument, its value and the legal values.

They check concrete values only. A traced value (inside `jit`, `grad` or `vmap`) passes; the code that uses it
still checks its shape and dtype.
"""

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flossing._arguments import (
    check_integer as check_integer,
    check_positive as check_positive,
    check_share as check_share,
)


def check_leaves(name: str, tree: Any):
    """Raise ValueError if a leaf is not an array, would silently lose float64 precision, or is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        label = name + jax.tree_util.keystr(path)
        if isinstance(leaf, Tracer):
            continue
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            raise ValueError(f"{label} must be an array or a number, got {_describe(leaf)}")
        _check_width(label, leaf)
        _check_mesh(label, leaf)
        _check_finite(label, leaf)


def _describe(leaf: Any) -> str:
    if type(leaf).__module__.partition(".")[0] == "torch":
        return f"a torch {type(leaf).__name__}: use flossing.pytorch for torch, or pass tensor.numpy()"
    return f"{reprlib.repr(leaf)} of type {type(leaf).__name__}"


def _check_width(label: str, leaf: Any):
    # Python scalars are weakly typed and take the default width; the dtype of a NumPy array is deliberate.
    if not isinstance(leaf, (np.ndarray, np.generic)):
        return
    if leaf.dtype.kind not in "fciub":
        raise ValueError(f"{label} must hold numbers, got dtype {leaf.dtype}")
    if leaf.dtype.kind in "fc" and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        raise ValueError(
            f"{label} is {leaf.dtype} but JAX runs with x64 off; "
            "enable it with jax.config.update('jax_enable_x64', True) or pass float32"
        )


def _check_mesh(label: str, leaf: Any):
    # JAX's own loops fail there, with an error about their carry.
    if not isinstance(leaf, jax.Array) or jax.sharding.get_abstract_mesh().explicit_axes:
        return
    if axes := jax.typeof(leaf).sharding.mesh.explicit_axes:
        raise ValueError(
            f"{label} lies on a mesh with explicit axes {', '.join(axes)}: enter it with jax.set_mesh(mesh), "
            "or make it with axis_types=(jax.sharding.AxisType.Auto,)"
        )


def _check_finite(label: str, leaf: Any):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return
    values = np.asarray(leaf)
    if values.dtype.kind not in "fc" or np.isfinite(values).all():
        return
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    raise ValueError(f"{label} must be finite, got {values[index]} at index {index}")


def check_key(name: str, key: Any):
    """Raise ValueError unless `key` is None or a single JAX random key, typed or an array of two numbers."""
    if key is None or isinstance(key, Tracer):
        return
    if not isinstance(key, jax.Array) or not (
        key.ndim == 0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key.dtype == jnp.uint32 and key.ndim == 1
    ):
        got = f"{key.dtype} of shape {key.shape}" if isinstance(key, jax.Array) else f"{name}={key!r}"
        raise ValueError(f"{name} must be a JAX random key such as jax.random.key(0), got {got}")


def is_concrete(tree: Any) -> bool:
    """Whether no leaf of `tree` is traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree_util.tree_leaves(tree))


def namespace(array: Any) -> Any:
    """The functions for this array, `numpy` or `jax.numpy`; NumPy keeps float64 whatever JAX is configured to."""
    return np if isinstance(array, np.ndarray) else jnp
