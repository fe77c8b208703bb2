"""Type aliases shared by all subpackages."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Key, PyTree

State: TypeAlias = PyTree
"""The state of one network: an array or a pytree such as an LSTM's `(h, c)`."""

Input: TypeAlias = PyTree
"""The input of one step; a sequence of inputs has a leading time axis on every leaf."""

Step: TypeAlias = Callable[[State, Input], State]
"""One step of a driven dynamical system, `step(state, input) -> state`, pure."""

RandomKey: TypeAlias = Key[Array, ""]
"""A typed JAX random key, `jax.random.key(seed)`."""

AnyArray: TypeAlias = Any
"""An array of JAX, or of NumPy where a measurement comes from `flossing.pytorch`."""
