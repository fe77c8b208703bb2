"""Everything is tested in float64 with strict dtype and rank promotion; shapes are checked by jaxtyping's import hook
(see addopts in pyproject.toml). Tests of float32 switch back by themselves."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def optax_promotion():
    """For tests that run an optimiser: optax's Adam raises a float to an integer power, which strict mode forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield
