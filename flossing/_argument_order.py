"""The calling convention of models, and its error messages; shared by the JAX and PyTorch sides, imports neither.

A function is a step, `step(state, input) -> state`; a module is called as its own ecosystem calls a cell.
"""

import inspect
from typing import Any

FUNCTION_ORDER, MODULE_ORDER = ("state", "input"), ("input", "state")
"""The order of arguments of a step function, and of a cell."""

_NAMES = {
    "state": {"state", "states", "h", "hx", "hidden", "hidden_state", "carry", "memory", "prev", "previous"},
    "input": {"input", "inputs", "inp", "drive", "stimulus"},
}
"""Unambiguous argument names; letters such as x, s and u may mean either."""


def argument_names(model: Any) -> tuple[str, ...]:
    """The names of the first two positional arguments of a callable, as far as Python knows them."""
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(each.name for each in parameters if each.kind in positional)[:2]


def contradicts(names: tuple[str, ...], order: tuple[str, str]) -> bool:
    """Whether the name of an argument contradicts its position."""
    return any(name.lower() in _NAMES[other] for name, other in zip(names, reversed(order), strict=False))


def order_hint(names: tuple[str, ...], order: tuple[str, str]) -> str:
    """The hint for a model that may expect its two arguments in the opposite order."""
    named = f", but its arguments are named ({', '.join(names)})" if contradicts(names, order) else ""
    kind = "a function is called as step(state, input)" if order == FUNCTION_ORDER else "a module as cell(input, state)"
    this, other = "model(state, input)", "model(input, state)"
    this, other = (this, other) if order == FUNCTION_ORDER else (other, this)
    keep = f", or {this} to keep this order" if named else ""
    return f"{kind}{named}: pass step=lambda model, state, input: {other}{keep}"
