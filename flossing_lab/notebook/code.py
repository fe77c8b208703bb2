"""A fingerprint of what a run from a notebook is made of: functions by their code, arrays by their values."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_DEPTH = 12


def fingerprint(*parts: Any) -> str:
    """12 hexadecimal digits that change if the code of a function, what it closes over, a setting or an array does.

    What has neither code, nor fields, nor numbers counts by its type alone.
    """
    digest = hashlib.sha256()
    for piece in _pieces(parts, _DEPTH):
        digest.update(piece)
    return digest.hexdigest()[:12]


def _pieces(value: Any, depth: int) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if depth == 0:
        return
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        yield np.asarray(value).tobytes()
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield repr(value).encode()
    else:
        for part in _parts(value):
            yield from _pieces(part, depth - 1)


def _parts(value: Any) -> list[Any]:
    """What a value consists of."""
    if isinstance(value, Mapping):
        return [*map(str, value), *value.values()]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_consts, value.co_names]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, closure]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if isinstance(value, type | types.ModuleType):
        return [value.__name__]
    return [getattr(value, "__wrapped__", None)]


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not NotImplemented
    except ValueError:  # a variable that has no value yet
        return False
