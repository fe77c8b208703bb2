"""One-line messages shared by several modules, and warnings; needs no JAX."""

import sys
import warnings

import numpy as np

_BETWEEN = {"flossing", "jax", "equinox", "jaxtyping", "torch"}
"""The packages whose code may lie between a warning and the user's code."""


def warn(message: str):
    """Warn as from the user's line, which is what Python's once-per-line filter needs."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


OVERFLOW_MESSAGE = (
    "the gradient overflows, although the exponents are finite: the step has no finite second derivative at some state "
    "of the orbit, such as a normalisation at a zero state (pass another state=), or the window is too long for a "
    "chaotic orbit"
)
"""The message for a flossing epoch whose exponents are finite and whose gradient is not."""


def lost_reach_message(reach: float) -> str:
    """The warning for a reach that is not finite."""
    return (
        f"the reach is {reach}, so it is not known whether to floss: gradients overflow over the window, or every loss "
        "comes before its end; shorten the window"
    )


def escape_message(where: str) -> str:
    """The message for a state or tangents that are no longer finite."""
    return (
        f"step must keep the state and its tangents finite, got NaN or infinity {where}: check its parameters, or "
        "whether the orbit escapes"
    )


def chaos_message(exponents: np.ndarray, window: int) -> str | None:
    """The warning for a window over which a chaotic orbit forgets its start; None if it is short enough.

    The derivative of an average along a chaotic orbit grows like exp(lambda_1 t). Beyond the precision of the dtype it
    is that of one orbit alone, and says nothing about the slope of the average.
    """
    largest = float(np.max(exponents))
    limit = -float(np.log(np.finfo(exponents.dtype).eps))
    if not limit < largest * window < np.inf:
        return None
    most = max(int(limit / largest), 1)
    return (
        f"floss measures a chaotic orbit, lambda_1 = {largest:.3g} per step, over a window of {window} steps: its "
        f"gradient is that of this orbit alone and may mislead; use a window of at most {most} steps"
    )


def rows_message(shape: tuple[int, ...]) -> str:
    """The message for a state whose rows are those of a batch."""
    return (
        f"batched must be given for a state of shape {shape} whose {shape[0]} rows do not interact, got batched=None: "
        "for a batch, pass inputs (B, T, ...) with batched=True and the state of one row, or batched=False to measure "
        "all rows as one system"
    )


SUBSPACE_MESSAGE = (
    "the weights no longer map the subspace of basis into itself, to which the exponents are restricted; for those of "
    "the whole space, leave basis out"
)
"""The message for a flossing epoch whose weights have left the subspace behind."""


def infinite_exponent_message(exponents: np.ndarray, interval: int = 1) -> str:
    """The message for exponents (..., k) that are not finite: the reason and the remedy."""
    rows = exponents.reshape(-1, exponents.shape[-1])
    exponents = rows[~np.isfinite(rows).all(-1)][0]
    index = int(np.argmin(np.isfinite(exponents)))
    if np.isneginf(exponents[index]) and interval > 1:
        return (
            f"exponents must be finite, got exponents[{index}]=-inf: the interval of {interval} steps is too long for "
            "this dtype, or the Jacobian is singular along that direction; interval=1 tells which"
        )
    if np.isneginf(exponents[index]):
        return (
            f"exponents must be finite, got exponents[{index}]=-inf: the Jacobian is singular along that direction "
            f"up to rounding; use k <= {index} or, if it is nearly singular, float64"
            if index
            else "exponents must be finite, got exponents[0]=-inf: the step forgets its state"
        )
    return f"exponents must be finite, got exponents[{index}]={exponents[index]}: the orbit or its tangents overflow"
