"""All tests run in float64 with strict dtype and rank promotion; jaxtyping's import hook checks shapes (see addopts in
pyproject.toml). Tests of float32 switch precision themselves."""

import contextlib
import os
import signal
from pathlib import Path

import jax
import jaxtyping
import pytest
from hypothesis import settings

# Shells make background jobs ignore Ctrl-C, and child processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time; others with `pytest --hypothesis-profile default`.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


MAPPINGS = 8_000
"""So many memory mappings of compiled programs take about 2 GB. A process may have some 65,000."""


@pytest.fixture(autouse=True, scope="session")
def bounded_cache():
    with contextlib.suppress(ModuleNotFoundError):  # the core tests need no laboratory
        from flossing_lab.runs.process import CACHE_LIMIT, limit_folder  # jaxtyping's hook comes first

        limit_folder(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]), CACHE_LIMIT)


@pytest.fixture(autouse=True)
def float64_again():
    """A run sets the precision of its process; restore it for the next test."""
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Drop compiled programs when a test file leaves more than this many memory mappings."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def no_type_checks(monkeypatch):
    """For tests of arguments of a wrong type, which jaxtyping's hook would refuse before we do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def optax_promotion():
    """For tests that run an optimiser: optax's Adam raises a float to an integer power, which strict mode rejects."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def in_this_process(monkeypatch):
    """The runs of a comparison are made here, without workers; the list holds the names of each batch of them."""
    from flossing_lab.comparison import runs

    made = []

    def perform(jobs, **_):
        made.append(list(jobs))
        for job in jobs.values():
            job.function(*job.arguments, lambda status: None)
        return {}

    monkeypatch.setattr(runs, "run_jobs", perform)
    return made
