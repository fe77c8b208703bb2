"""Equal functions as one object, so that compiled loops are found again whoever made the functions anew.

JAX finds a compiled program by the identity of the functions that are static in it: `optax.adam(1e-3)` called twice
gives two, and everything is compiled twice. Two functions are taken for equal here if they have the same code, in the
same module, and close over equal values; arrays, and objects that may change, count by identity.
"""

import functools
import types
from collections import OrderedDict
from typing import Any, TypeVar

KEPT = 128
"""The number of functions that are remembered, those used last."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_known: OrderedDict[Any, Any] = OrderedDict()

Function = TypeVar("Function")


def interned(function: Function) -> Function:
    """The first object that was equal to `function`, which may be a tuple of functions, as optimisers of optax are."""
    if not isinstance(function, (types.FunctionType, types.MethodType, functools.partial, tuple)):
        return function  # a module, say, which has an equality of its own
    key = _content(function, set())
    found = _known.setdefault(key, function)  # also keeps alive whatever the key holds by its identity
    _known.move_to_end(key)
    if len(_known) > KEPT:
        _known.popitem(last=False)
    return found


def _content(value: Any, outer: set[int]) -> Any:
    """A hashable value, equal for objects that do the same."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)  # 1 is not 1.0, 0.0 not -0.0
    if id(value) in outer:
        return "itself"
    outer = outer | {id(value)}
    if isinstance(value, types.FunctionType):
        cells = [_cell(cell) for cell in value.__closure__ or ()]
        named = tuple((value.__kwdefaults__ or {}).items())
        parts = (value.__defaults__, named, tuple(cells))
        return value.__code__, id(value.__globals__), *(_content(part, outer) for part in parts)
    if isinstance(value, types.MethodType):
        return "method", _content(value.__func__, outer), id(value.__self__)
    if isinstance(value, functools.partial):
        named = tuple(value.keywords.items())
        return "partial", *(_content(part, outer) for part in (value.func, value.args, named))
    if isinstance(value, tuple):
        return type(value), *(_content(part, outer) for part in value)
    return "identity", id(value)  # arrays, and whatever may change: lists, dicts, objects


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty: the name is bound later
        return "empty"
