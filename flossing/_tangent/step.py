"""The calling convention of models, and the error for an ambiguous call.

A function is a step, `step(state, input) -> state`. A module is called as its own ecosystem calls a cell: Equinox and
this library `cell(input, state)`, Flax `cell(carry, input)`. The functions below turn either into the explicit
form, `step(model, state, input) -> state`.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from flossing._argument_order import FUNCTION_ORDER, MODULE_ORDER, argument_names, contradicts, order_hint
from flossing._types import Input, State

ExplicitStep = Callable[[Any, State, Input], State]
"""`step(model, state, input) -> state`."""

Convention = Literal["function", "module", "flax"]

_KNOWN = ("flossing", "equinox", "flax")
"""Packages whose cells follow the order of their ecosystem, whatever the names of their arguments."""


def call_function(model: Any, state: State, input: Input) -> State:
    """`model(state, input)`: a function is a step."""
    return model(state, input)


def call_module(model: Any, state: State, input: Input) -> State:
    """`model(input, state)`: the call of an Equinox cell."""
    return model(input, state)


def call_flax(model: Any, state: State, input: Input) -> State:
    """`model(carry, input) -> (carry, output)`: the call of a Flax cell."""
    return model(state, input)[0]


_CALLS: dict[Convention, ExplicitStep] = {"function": call_function, "module": call_module, "flax": call_flax}


def read_step(model: Any, step: Any = None) -> ExplicitStep:
    """The explicit form of a model's step: `step` if given, else the form that the convention implies."""
    if any(base.__module__.split(".")[0] == "torch" for base in type(model).__mro__):
        raise ValueError(f"model must be one of JAX, got {type(model).__name__} of torch: use flossing.pytorch")
    if step is not None:
        if not callable(step):
            raise ValueError(f"step must be a function step(model, state, input) -> state, got step={step!r}")
        return step
    if not callable(model):
        raise ValueError(
            f"model must be a cell, or a function step(state, input); for a {type(model).__name__} of parameters, pass "
            "step=, a function step(model, state, input) -> state"
        )
    return _CALLS[convention_of(model)]


def convention_of(model: Any) -> Convention:
    """The convention by which a callable model is called."""
    wrapped = inspect.unwrap(model) if not isinstance(model, type) else model
    if _comes_from(wrapped, "flax"):
        return "flax"
    is_module = isinstance(wrapped, eqx.Module) and not isinstance(wrapped, eqx.Partial)
    return "module" if is_module else "function"


def check_order(model: Any, accepts: Callable[[ExplicitStep], bool]):
    """Raise ValueError if the names of a model's arguments contradict its convention and its shapes allow both orders.

    `accepts(step)` tells whether a step maps the state to a state of the same shapes.
    """
    convention = convention_of(model)
    if any(_comes_from(model, package) for package in _KNOWN):
        return
    names = argument_names(model)
    order = FUNCTION_ORDER if convention == "function" else MODULE_ORDER
    if contradicts(names, order) and accepts(_other_order(convention)):
        raise ValueError(
            f"model must be called in one order, got one that can be read in two: {order_hint(names, order)}"
        )


def argument_order_hint(model: Any, accepts: Callable[[ExplicitStep], bool]) -> str:
    """The hint to append to a shape error if the other order of arguments would fit, else an empty string."""
    if not callable(model):
        return ""
    convention = convention_of(model)
    if not accepts(_other_order(convention)):
        return ""
    order = FUNCTION_ORDER if convention == "function" else MODULE_ORDER
    return f"; {order_hint(argument_names(model), order)}"


def zero_state(model: Any) -> State:
    """The zero state of a cell that has one; ValueError for any other model."""
    zeros = getattr(model, "zeros", None)
    if callable(zeros):
        return zeros()
    if isinstance(model, (eqx.nn.GRUCell, eqx.nn.LSTMCell)):
        h = jnp.zeros(model.hidden_size, model.weight_hh.dtype)
        return (h, h) if isinstance(model, eqx.nn.LSTMCell) else h
    if _comes_from(model, "flax") and hasattr(model, "initialize_carry"):
        from flax import nnx

        return model.initialize_carry((model.in_features,), nnx.Rngs(0))
    name = getattr(model, "__name__", type(model).__name__)
    cells = [field for field, value in (vars(model) if hasattr(model, "__dict__") else {}).items() if _is_cell(value)]
    hint = f"; to measure its cell, pass model.{cells[0]} and the inputs of that cell" if cells else ""
    raise ValueError(f"state must be given for a model without a method zeros(), got state=None for {name}{hint}")


def _other_order(convention: Convention) -> ExplicitStep:
    return call_module if convention == "function" else call_function


def _comes_from(model: Any, package: str) -> bool:
    # A Flax cell is often a class of the user's own, derived from one of Flax.
    classes = type(model).__mro__ if package == "flax" else (type(model),)
    return any(each.__module__.split(".")[0] == package for each in classes)


def _is_cell(value: Any) -> bool:
    return is_known_cell(value) and (
        isinstance(value, (eqx.nn.GRUCell, eqx.nn.LSTMCell))
        or callable(getattr(value, "zeros", None))
        or hasattr(value, "initialize_carry")
    )


def input_hint(model: Any, input: Input) -> str:
    """The hint to append to an error about one step's input if a known cell receives tokens or a batch, or nothing."""
    leaves = jax.tree_util.tree_leaves(input)
    if not is_known_cell(model) or len(leaves) != 1:
        return ""
    if leaves[0].ndim == 2:
        return "; for a batch of sequences (B, T, S), use jax.vmap"
    are_tokens = leaves[0].ndim == 0 and jnp.issubdtype(leaves[0].dtype, jnp.integer)
    return "; for a sequence of tokens, pass their embeddings (T, S)" if are_tokens else ""


def is_known_cell(model: Any) -> bool:
    """Whether this is a cell of a known library, whose step takes an input (S,)."""
    return any(_comes_from(model, package) for package in _KNOWN) and convention_of(model) != "function"
