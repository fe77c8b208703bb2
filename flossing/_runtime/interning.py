"""Map functions that behave the same to one object, so that compiled loops are reused, and no stale ones.

JAX caches a compiled program by the identity of its static functions. Two calls of `optax.adam(1e-3)` give different
functions, and everything would be compiled twice; a function that reads a global keeps its program when the global
changes, and would return the old numbers. Here, two functions are equal if they have the same code, in the same module,
and everything they read is equal: arguments, closures, globals, attributes of objects and modules, lists and dicts.
Globals of installed packages count as constant. All other objects are compared by identity, such as arrays: JAX itself
keeps the values that a NumPy array had when it was first read.
"""

import functools
import os
import sysconfig
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeVar

CACHE_SIZE = 128
"""The number of functions remembered, the most recently used ones."""

MOST_READ = 2000
"""The number of values read for a function; one that reads more equals no other, and is compiled at each call."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
_FOLDERS = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parents[1]))
_INSTALLED = tuple(folder.rstrip(os.sep) + os.sep for folder in _FOLDERS)
_EMPTY = object()
_known: OrderedDict[Any, Any] = OrderedDict()

Function = TypeVar("Function")


def interned(function: Function) -> Function:
    """A copy of `function`, the same one for all equal functions; a tuple of functions, as optax has, is also accepted.

    An object with an equality of its own, such as a module, is returned itself.
    """
    if not isinstance(function, (*_FUNCTIONS, tuple)) and not (callable(function) and _is_mutable(function)):
        return function
    reader = _Reader()
    key = reader.content(function)
    if reader.reads_too_much:
        return _copied(function)
    if key not in _known:
        # A copy: JAX may hold a program of `function` itself from when it read other values.
        _known[key] = _copied(function), reader.identified
    _known.move_to_end(key)
    if len(_known) > CACHE_SIZE:
        _known.popitem(last=False)
    return _known[key][0]


def _copied(value: Any) -> Any:
    """Another object that behaves the same; or the same, a function of a package that closes over nothing."""
    return _copy(value, {}) if isinstance(value, (*_FUNCTIONS, tuple)) else functools.partial(value)


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """Functions within others are copied, too: an equal function may later be given other values for its variables."""
    if isinstance(value, types.FunctionType):
        if value.__closure__ is None and _is_installed(value):
            return value
        return copies.get(id(value)) or _copied_function(value, copies)
    if isinstance(value, types.MethodType):
        return types.MethodType(_copy(value.__func__, copies), value.__self__)
    if isinstance(value, functools.partial):
        keywords = {name: _copy(part, copies) for name, part in value.keywords.items()}
        return functools.partial(_copy(value.func, copies), *_copy(value.args, copies), **keywords)
    if isinstance(value, tuple):
        parts = [_copy(part, copies) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _copied_function(function: types.FunctionType, copies: dict[int, Any]) -> types.FunctionType:
    cells = None if function.__closure__ is None else tuple(types.CellType() for _ in function.__closure__)
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, closure=cells)
    copies[id(function)] = functools.update_wrapper(copy, function)  # before its cells, which may hold it
    copy.__defaults__ = _copy(function.__defaults__, copies)
    copy.__kwdefaults__ = {n: _copy(v, copies) for n, v in (function.__kwdefaults__ or {}).items()} or None
    for cell, old in zip(cells or (), function.__closure__ or (), strict=True):
        if (content := _cell(old)) is not _EMPTY:
            cell.cell_contents = _copy(content, copies)
    return copy


def _is_installed(function: types.FunctionType) -> bool:
    """Whether a function is of Python, of an installed package, or ours."""
    return function.__code__.co_filename.startswith(_INSTALLED)


def _is_mutable(value: Any) -> bool:
    """Whether an object has attributes, and an equality that does not compare them."""
    is_object = not isinstance(value, (type, types.ModuleType)) and hasattr(value, "__dict__")
    return is_object and type(value).__eq__ is object.__eq__


class _Reader:
    """Reads a function; `identified` holds what its content names by `id`, to keep these numbers from being reused."""

    def __init__(self):
        self.identified: list[Any] = []
        self.reads_too_much = False
        self._seen: dict[Any, int] = {}
        self._count = 0

    def content(self, value: Any, names: frozenset[str] = frozenset()) -> Any:
        """A hashable value, equal for objects that behave the same.

        Of objects and modules, only the attributes in `names` are read, those that occur in the code that reads them:
        others may change, such as the counters of a trainer whose method is a loss.
        """
        if isinstance(value, _PLAIN):
            return type(value), repr(value)  # 1 is not 1.0, 0.0 not -0.0
        self.identified.append(value)
        if (id(value), names) in self._seen:
            return "again", self._seen[id(value), names]
        self._count += len(value) if isinstance(value, (tuple, list, dict)) else 1
        if self._count > MOST_READ:
            self.reads_too_much = True
            return "too much"
        self._seen[id(value), names] = len(self._seen)
        return self._content(value, names)

    def _content(self, value: Any, names: frozenset[str]) -> Any:
        if isinstance(value, tuple):
            return type(value), *(self.content(part, names) for part in value)
        if isinstance(value, (list, dict)):  # also by identity, since a function may write into them
            parts = value.items() if isinstance(value, dict) else value
            return id(value), *(self.content(part, names) for part in parts)
        if isinstance(value, types.MethodType):
            return "method", self.content(value.__func__), self.content(value.__self__, _names_of(value))
        if isinstance(value, functools.partial):
            names = _names_of(value)
            parts = value.func, value.args, tuple(value.keywords.items())
            return "partial", *(self.content(part, names) for part in parts)
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, types.ModuleType):
            read = [(name, getattr(value, name)) for name in sorted(names & vars(value).keys())]
            read = [(name, part) for name, part in read if isinstance(part, types.FunctionType) or not callable(part)]
            return "module", id(value), *((name, self.content(part, names)) for name, part in read)
        if _is_mutable(value):
            names, attributes = _with_methods(value, names), vars(value)
            read = ((name, self.content(attributes[name], names)) for name in sorted(names & attributes.keys()))
            return "object", id(value), *read
        return "identity", id(value)

    def _of_function(self, function: types.FunctionType) -> Any:
        code, names, read = function.__code__, _names_of(function), []
        if not _is_installed(function):  # the globals of a package we take as constant
            values = function.__globals__
            read = [(name, self.content(values[name], names)) for name in sorted(names & values.keys())]
        cells = tuple(_cell(cell) for cell in function.__closure__ or ())
        defaults = function.__defaults__, tuple((function.__kwdefaults__ or {}).items())
        return code, id(function.__globals__), *(self.content(part, names) for part in (*defaults, cells)), *read


def _names_of(function: Any) -> frozenset[str]:
    """The names that a function may read as globals or attributes."""
    if isinstance(function, functools.partial):
        return _names_of(function.func)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return frozenset() if code is None else frozenset(_names(code))


def _names(code: types.CodeType) -> set[str]:
    """Those in the code, its inner functions included; also text that may be the name of an attribute."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    text = {constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()}
    return set(code.co_names).union(text, *inner)


def _with_methods(value: Any, names: frozenset[str]) -> frozenset[str]:
    """These names, and those that the methods and properties of `value` among them read."""
    found, waiting = set(), {*names, "__call__"}
    while waiting:
        found.add(name := waiting.pop())
        method = getattr(type(value), name, None)
        waiting |= _names_of(method.fget if isinstance(method, property) else method) - found
    return frozenset(found)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty: the name is bound later
        return _EMPTY
