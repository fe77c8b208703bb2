"""The same work as pytest-benchmark cases: `.venv/bin/pytest benchmarks/test_speed.py`.

Not part of `make test`. Use it to compare versions of this library (--benchmark-save, --benchmark-compare). For ratios
between libraries use `python -m benchmarks`, which runs each in its own process; here all share one. Our flossing is
timed at the interval it has reached after `SETTLE` epochs.
"""

import jax
import pytest

from benchmarks.epochs import FLOSSING, default_transient
from benchmarks.spectra import PEERS, SIZES
from benchmarks.turns import load

pytest.importorskip("pytest_benchmark")
SETTLE = 50


@pytest.fixture(autouse=True)
def single_precision_again():
    yield
    jax.config.update("jax_enable_x64", False)


def _case(benchmark, group: str, factory: str, warm: int, **arguments):
    try:
        advance = load(factory)(**arguments)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    advance(warm)
    benchmark.group = group
    benchmark.pedantic(advance, args=(1,), rounds=7)


@pytest.mark.parametrize("size", [size[:3] for size in FLOSSING], ids=lambda size: "N{}-T{}-k{}".format(*size))
@pytest.mark.parametrize("who", ["ours", "peers_torch", "peers_jax"])
def test_flossing_epoch(benchmark, who, size):
    units, steps, k = size
    more = {"peers_torch": {"threads": 2, "transient": default_transient(steps)}}
    more["peers_jax"] = {"transient": default_transient(steps)}
    _case(
        benchmark,
        f"flossing epoch N={units} T={steps} k={k}",
        f"benchmarks.{who}:flossing",
        SETTLE if who == "ours" else 1,
        units=units,
        steps=steps,
        k=k,
        **more.get(who, {}),
    )


@pytest.mark.parametrize("who", ["ours", "peers_torch", "peers_jax"])
def test_training_epoch(benchmark, who):
    threads = {"threads": 2} if who == "peers_torch" else {}
    size = {"units": 80, "batch": 16, "steps": 300, "delay": 20}
    _case(benchmark, "training epoch", f"benchmarks.{who}:training", 1, **size, **threads)


@pytest.mark.parametrize("size", SIZES[:4], ids=lambda size: "N{}-k{}-T{}".format(*size))
@pytest.mark.parametrize("who", ["ours", *PEERS])
def test_spectrum(benchmark, who, size):
    units, k, steps = size
    factory = PEERS.get(who, "benchmarks.ours:spectrum")
    group = f"spectrum N={units} k={k} T={steps}"
    _case(benchmark, group, factory, 1, units=units, k=k, steps=steps, transient=steps // 10)
