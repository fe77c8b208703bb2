"""Everything is tested in float64 with strict dtype and rank promotion; shapes are checked by jaxtyping's import hook
(see addopts in pyproject.toml). Tests of float32 switch back by themselves."""

import contextlib
import signal

import jax
import pytest
from hypothesis import settings

# Where the tests run in the background of a shell, Ctrl-C is ignored, and what they start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time; others with `pytest --hypothesis-profile default`.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def compiled_once():
    with contextlib.suppress(ModuleNotFoundError):  # the core tests need no laboratory
        from flossing_lab.runs.process import cache_compilations  # jaxtyping's hook comes first

        cache_compilations()


@pytest.fixture(autouse=True)
def float64_again():
    """A run of the experiments chooses the precision of its process; the next test has its own again."""
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs live no longer than the file of tests that made them: each holds mappings of memory, of which
    a process may have some 65,000, and a process that runs hundreds of tests dies at the limit."""
    yield
    jax.clear_caches()


@pytest.fixture
def optax_promotion():
    """For tests that run an optimiser: optax's Adam raises a float to an integer power, which strict mode forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield
