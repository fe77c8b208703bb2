"""Argument checks that need no JAX; `_checks` re-exports them."""

import math
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, *, least: int, most: int | None = None, note: str = ""):
    """Raise ValueError unless `value` is an integer in `[least, most]`."""
    integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integral or value < least or (most is not None and value > most):
        legal = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        raise ValueError(f"{name} must be {legal}{note}, got {name}={value!r}")


def check_positive(name: str, value: Any):
    """Raise ValueError unless `value` is a finite number above 0."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {name}={value!r}")


def check_loss(loss: Any, home: str, elsewhere: str):
    """Raise ValueError unless `loss` is a function, and not one of the other ecosystem's."""
    legal = f"loss must be a function of what an epoch measures, such as {home}.exponents or {home}.Memory()"
    if isinstance(loss, type) or not callable(loss):
        raise ValueError(f"{legal}, got loss={loss!r}")
    if getattr(loss, "__module__", None) == elsewhere:
        raise ValueError(f"{legal}, got one of {elsewhere}")
    if getattr(loss, "__name__", None) == "flossing_loss":
        raise ValueError(f"{legal}, got flossing_loss, which takes exponents: pass {home}.exponents")


def default_transient(steps: int) -> int:
    """The default transient of a run of `steps`: `10 + ceil(steps / 10)` as in the reference, at most half."""
    return min(10 + math.ceil(steps / 10), steps // 2)
