"""What every measurement along an orbit begins with: checked arguments, arrays, a first basis."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_leaves, is_concrete
from flossing._linalg.qr import orthonormalise
from flossing._tangent.coordinates import Coordinates, describe_structure, shape_of_one
from flossing._types import Input, RandomKey, State, Step


class Prepared(NamedTuple):
    """State and inputs as arrays, the number of steps, the coordinates of the state."""

    state: State
    inputs: Input
    length: int
    coordinates: Coordinates


def prepare(step: Step, state: State, inputs: Input, steps: int | None) -> Prepared:
    """Check the arguments that all measurements share; errors as in `lyapunov_spectrum`."""
    check_leaves("state", state)
    check_leaves("inputs", inputs)
    check_leaves("step", eqx.filter(step, eqx.is_array))
    state = jax.tree_util.tree_map(jnp.asarray, state)
    inputs = jax.tree_util.tree_map(jnp.asarray, inputs)
    length = sequence_length(inputs, steps)
    coordinates = Coordinates(state)
    check_step(step, coordinates, state, inputs)
    return Prepared(state, inputs, length, coordinates)


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


def sequence_length(inputs: Input, steps: int | None = None) -> int:
    """T, from the leading time axis that all leaves of `inputs` share, or from `steps` if there are none."""
    if steps is not None:
        check_integer("steps", steps, least=1)
    leaves = jax.tree_util.tree_leaves_with_path(inputs)
    if not leaves:
        if steps is None:
            raise ValueError("steps must be given for an autonomous system (inputs=None), got steps=None")
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
    if steps not in (None, length):
        raise ValueError(f"steps must equal the length of inputs, {length}, or be left out, got steps={steps}")
    return length


_MISFITS = (TypeError, ValueError, AttributeError, LookupError)
"""What Python and JAX raise where shapes, dtypes or structures do not fit together."""


def check_step(step: Step, coordinates: Coordinates, state: State, inputs: Input):
    """Raise ValueError unless `step` maps a state to a state of the same structure, shapes and dtypes."""
    first = shape_of_one(inputs)
    try:
        returned = eqx.filter_eval_shape(step, state, first)
    except _MISFITS as error:  # its traceback stays attached
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"step must accept a state like {coordinates.describe()} and an input like {describe_structure(first)}, "
            f"got {reason}"
        ) from error
    if not coordinates.matches(returned):
        raise ValueError(
            f"step must return a state like the one it was given, {coordinates.describe()}, "
            f"got {describe_structure(returned)}"
        )
