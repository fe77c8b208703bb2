"""Argument checks that need no JAX; `_checks` re-exports them."""

import math
from typing import Any

import numpy as np

CLIP = 0.1
"""The largest gradient norm that the flossing optimiser receives. Where a random network almost loses a direction, the
gradient has rare spikes, a hundred or a thousand times its usual size. After one spike, Adam would take small steps for
hundreds of epochs. Near the target, gradient norms are below this limit."""

LEARNING_RATE = 3e-3
"""The default learning rate of Adam, chosen with the default loss, on other networks than those of any table."""


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


def check_share(name: str, value: Any):
    """Raise ValueError unless `value` is a number above 0 and at most 1."""
    check_positive(name, value)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, got {name}={value!r}")


def check_limits(interval: Any, tolerance: Any, clip: Any):
    """Raise ValueError unless these are an interval or "auto", and positive numbers or None."""
    if interval != "auto":
        check_integer("interval", interval, least=1, note=" or 'auto'")
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    if clip is not None:
        check_positive("clip", clip)


def check_settings(
    *,
    window: int,
    k: Any,
    transient: Any,
    interval: Any,
    tolerance: Any,
    target: Any,
    clip: Any,
    sequences: Any,
    seed: Any,
):
    """Raise ValueError for settings of a `Flosser` that no model can have; the rest is checked in its first step."""
    check_integer("window", window, least=2)
    if k is not None:
        check_integer("k", k, least=1)
    if transient is not None:
        check_integer("transient", transient, least=0, most=window - 1, note=f" (the window has {window} steps)")
    check_limits(interval, tolerance, clip)
    _check_target(target, k)
    check_integer("sequences", sequences, least=1)
    check_integer("seed", seed, least=0)


def _check_target(target: Any, k: int | None):
    """Raise ValueError unless this is a finite number, or one for each of `k` exponents."""
    try:
        values = np.asarray(target.tolist() if hasattr(target, "tolist") else target, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"target must be a number, or one for each exponent, got target={target!r}") from None
    if values.ndim > 1 or (values.ndim == 1 and k is not None and len(values) != k):
        raise ValueError(f"target must be a number, or one for each of k exponents, got shape {values.shape} and k={k}")
    if not np.isfinite(values).all():
        raise ValueError(f"target must be finite, got target={target!r}")


def check_loss(loss: Any, home: str, elsewhere: str, *, name: str = "loss"):
    """Raise ValueError unless `loss` is a function, and not one of the other ecosystem's."""
    legal = f"{name} must be a function of what an epoch measures, such as {home}.exponents or {home}.Memory()"
    if isinstance(loss, type) or not callable(loss):
        raise ValueError(f"{legal}, got {name}={loss!r}")
    if getattr(loss, "__module__", None) == elsewhere:
        raise ValueError(f"{legal}, got one of {elsewhere}")
    if getattr(loss, "__name__", None) == "flossing_loss":
        raise ValueError(f"{legal}, got flossing_loss, which takes exponents: pass {home}.exponents")


def default_transient(steps: int) -> int:
    """The default transient of a run of `steps`: `10 + ceil(steps / 10)` as in the reference, at most half."""
    return min(10 + math.ceil(steps / 10), steps // 2)
