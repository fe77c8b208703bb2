"""Whether the residuals of a reverse pass fit into memory."""

import math
import os
from typing import Any

import jax

RESIDUALS_PER_STEP = 6
"""Estimated size of the residuals of one step, in units of the size of its tangents."""


def too_large(length: int, tangents: jax.ShapeDtypeStruct | jax.Array) -> bool:
    """Whether the reverse pass over `length` steps would take more than half of the memory."""
    return RESIDUALS_PER_STEP * length * tangents.size * tangents.dtype.itemsize > _memory() / 2


def _memory() -> float:
    stats: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not known on this system
        return math.inf
