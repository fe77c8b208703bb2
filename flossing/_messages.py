"""Errors that several rooms raise, in one line each; needs no JAX."""

import numpy as np


def explain_escape(where: str) -> str:
    """What to say where the state or its tangents cease to be finite."""
    return (
        f"step must keep the state and its tangents finite, got NaN or infinity {where}: check its parameters, or "
        "whether the orbit escapes"
    )


def explain_infinite(exponents: np.ndarray) -> str:
    """What to say of a vector of exponents that is not finite: the reason, and what to do."""
    index = int(np.argmin(np.isfinite(exponents)))
    if np.isneginf(exponents[index]):
        return (
            f"exponents must be finite, got exponents[{index}]=-inf: the Jacobian is singular along that direction "
            f"(or the interval too long for this dtype); use k <= {index}, a shorter interval or float64"
            if index
            else "exponents must be finite, got exponents[0]=-inf: the step forgets its state"
        )
    return f"exponents must be finite, got exponents[{index}]={exponents[index]}: the orbit or its tangents overflow"
