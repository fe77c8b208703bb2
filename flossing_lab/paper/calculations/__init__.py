"""The calculations behind figures that are not drawn from runs: functions that return arrays by name.

Figures refer to a function by its stable name, which enters the digest of its stored result. A name must never change;
the function may move to another module.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

FUNCTIONS = {
    "flossed_networks": "flossed",
    "extended_precision": "flossed",
    "train_lstm": "lstm",
    "memory_of_flossed": "capacity",
    "signal_after_preflossing": "gradient_snr",
    "newton_of_flossed": "newton",
    "newton_through_training": "newton",
    "condition_through_training": "training",
}
"""The module of each calculation in this package."""

LEGACY_MODULES = {
    "flossed_networks": "flossing.experiment.paper.flossed",
    "extended_precision": "flossing.experiment.paper.flossed",
    "train_lstm": "flossing.experiment.paper.gated",
    "memory_of_flossed": "flossing.experiment.paper.capacity",
    "signal_after_preflossing": "flossing.experiment.paper.signal",
}
"""Digests from before version 0.2 contain the module a function was then in. Later calculations need no entry."""


def find_calculation(name: str) -> Callable[..., dict[str, np.ndarray]]:
    """The function with this stable name."""
    return getattr(importlib.import_module(f"{__name__}.{FUNCTIONS[name]}"), name)


def digest_name(name: str) -> Any:
    """The identifier of a function in the digest of a calculation."""
    return f"{LEGACY_MODULES[name]}:{name}" if name in LEGACY_MODULES else name
