"""Estimates and their errors: what the measurements of both ecosystems share; needs no JAX."""

from typing import Any, NamedTuple

BATCHES, SPLIT = 20, 8
"""The default number of batches of batch means, and the number of parts of each, which show how scatter scales."""

MIN_BLOCKS_FOR_ERROR = BATCHES * SPLIT
"""The fewest blocks that allow a standard error by batch means."""


class Estimate(NamedTuple):
    """A number and its standard error; NaN where the run is too short for one. (B,) for B sequences."""

    value: Any
    standard_error: Any
