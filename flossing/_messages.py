"""One-line error messages shared by several modules; needs no JAX."""

import numpy as np


def escape_message(where: str) -> str:
    """The message for a state or tangents that are no longer finite."""
    return (
        f"step must keep the state and its tangents finite, got NaN or infinity {where}: check its parameters, or "
        "whether the orbit escapes"
    )


def infinite_exponent_message(exponents: np.ndarray) -> str:
    """The message for exponents that are not finite: the reason and the remedy."""
    index = int(np.argmin(np.isfinite(exponents)))
    if np.isneginf(exponents[index]):
        return (
            f"exponents must be finite, got exponents[{index}]=-inf: the Jacobian is singular along that direction "
            f"(or the interval too long for this dtype); use k <= {index}, a shorter interval or float64"
            if index
            else "exponents must be finite, got exponents[0]=-inf: the step forgets its state"
        )
    return f"exponents must be finite, got exponents[{index}]={exponents[index]}: the orbit or its tangents overflow"
