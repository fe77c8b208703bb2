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
    reader = _Reader()
    key = reader.content(function)
    found, _ = _known.setdefault(key, (function, reader.identified))
    _known.move_to_end(key)
    if len(_known) > CACHE_SIZE:
        _known.popitem(last=False)
    return found


class _Reader:
    """Reads a function; `identified` holds what its content names by `id`, to keep these numbers from being reused."""

    def __init__(self):
        self.identified: list[Any] = []
        self._seen: dict[int, int] = {}

    def content(self, value: Any) -> Any:
        """A hashable value, equal for objects that behave the same."""
        if isinstance(value, _PLAIN):
            return type(value), repr(value)  # 1 is not 1.0, 0.0 not -0.0
        if isinstance(value, tuple):
            return type(value), *map(self.content, value)
        if not isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            return self._identity(value)  # arrays and mutable objects: lists, dicts, instances
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        self.identified.append(value)
        if isinstance(value, types.MethodType):
            return "method", self.content(value.__func__), self._identity(value.__self__)
        if isinstance(value, functools.partial):
            named = tuple(value.keywords.items())
            return "partial", *map(self.content, (value.func, value.args, named))
        cells = tuple(_cell(cell) for cell in value.__closure__ or ())
        named = tuple((value.__kwdefaults__ or {}).items())
        read = [(name, self._global(value, name)) for name in sorted(_names(value.__code__))]
        parts = map(self.content, (value.__defaults__, named, cells))
        return value.__code__, self._identity(value.__globals__), *parts, *read

    def _global(self, function: types.FunctionType, name: str) -> Any:
        value = function.__globals__.get(name)
        if isinstance(value, types.FunctionType) and value.__globals__ is not function.__globals__:
            return self._identity(value)  # of another module, whose globals we take as constant
        return self.content(value)

    def _identity(self, value: Any) -> Any:
        self.identified.append(value)
        return "identity", id(value)


def _names(code: types.CodeType) -> set[str]:
    """The names that a function may read as globals, its inner functions included."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty: the name is bound later
        return "empty"
