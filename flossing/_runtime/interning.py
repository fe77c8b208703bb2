"""Map equal functions to one object, so that compiled loops are reused when a function is created again.

JAX caches a compiled program by the identity of its static functions: two calls of `optax.adam(1e-3)` give different
functions, and everything is compiled twice. Here, two functions are equal if they have the same code, in the same
module, and close over, and read as globals, equal values. Arrays and mutable objects are compared by identity.
"""

import functools
import types
from collections import OrderedDict
from typing import Any, TypeVar

CACHE_SIZE = 128
"""The number of functions remembered, the most recently used ones."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_known: OrderedDict[Any, Any] = OrderedDict()

Function = TypeVar("Function")


def interned(function: Function) -> Function:
    """The first known object equal to `function`, which may be a tuple of functions, as optax optimisers are."""
    if not isinstance(function, (types.FunctionType, types.MethodType, functools.partial, tuple)):
        return function  # such as a module, which defines its own equality
    key = _content(function, set())
    found = _known.setdefault(key, function)  # also keeps alive the objects that the key identifies by id
    _known.move_to_end(key)
    if len(_known) > CACHE_SIZE:
        _known.popitem(last=False)
    return found


def _content(value: Any, outer: set[int]) -> Any:
    """A hashable value, equal for objects that behave the same."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)  # 1 is not 1.0, 0.0 not -0.0
    if id(value) in outer:
        return "itself"
    outer = outer | {id(value)}
    if isinstance(value, types.FunctionType):
        cells = [_cell(cell) for cell in value.__closure__ or ()]
        named = tuple((value.__kwdefaults__ or {}).items())
        parts = (value.__defaults__, named, tuple(cells))
        read = [(name, _global(value, name, outer)) for name in sorted(_names(value.__code__))]
        return value.__code__, id(value.__globals__), *(_content(part, outer) for part in parts), *read
    if isinstance(value, types.MethodType):
        return "method", _content(value.__func__, outer), id(value.__self__)
    if isinstance(value, functools.partial):
        named = tuple(value.keywords.items())
        return "partial", *(_content(part, outer) for part in (value.func, value.args, named))
    if isinstance(value, tuple):
        return type(value), *(_content(part, outer) for part in value)
    return "identity", id(value)  # arrays and mutable objects: lists, dicts, instances


def _names(code: types.CodeType) -> set[str]:
    """The names that a function may read as globals, its inner functions included."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _global(function: types.FunctionType, name: str, outer: set[int]) -> Any:
    value = function.__globals__.get(name)
    if isinstance(value, types.FunctionType) and value.__globals__ is not function.__globals__:
        return "identity", id(value)  # of another module, whose globals we take as constant
    return _content(value, outer)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty: the name is bound later
        return "empty"
