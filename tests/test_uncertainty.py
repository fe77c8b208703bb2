"""Error bars: calibrated where possible, a stated bound otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import flossing as fl
from flossing._spectra.statistics import batch_means
from flossing.flows import rk4

KEY = jax.random.key(2)


def autoregressive(rng, blocks, correlation, runs):
    """Series whose mean has the exact asymptotic variance 1 / (1 - correlation)^2."""
    noise = rng.normal(size=(blocks, runs))
    series = np.zeros_like(noise)
    for t in range(1, blocks):
        series[t] = correlation * series[t - 1] + noise[t]
    return series


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.5])
def test_calibrated_on_correlated_noise(correlation):
    """95 % intervals hold the true mean, 0, in 90 to 99 % of 500 independent series."""
    series = autoregressive(np.random.default_rng(1), 4000, correlation, 500)
    result = batch_means(jnp.asarray(series), 1.0)
    inside = np.abs(series.mean(0)) < np.asarray(result.half_width())
    assert 0.9 <= inside.mean() <= 0.99
    exact = 1 / (1 - correlation) / np.sqrt(4000)
    assert float(result.standard_error.mean()) == pytest.approx(exact, rel=0.1)
    assert result.is_upper_bound.mean() < 0.1


def test_intervals_follow_student():
    result = batch_means(jnp.asarray(np.random.default_rng(0).normal(size=(800, 1))), 1.0, batches=10)
    assert result.degrees_of_freedom == 9
    ratio = float(result.half_width(0.99)[0] / result.standard_error[0])
    assert ratio == pytest.approx(stats.t.ppf(0.995, 9))


def test_time_step_and_interval_only_change_the_unit():
    growth = jnp.asarray(np.random.default_rng(0).normal(size=(800, 2)))
    per_block, per_time = batch_means(growth, 1.0), batch_means(growth, 0.05)
    np.testing.assert_allclose(per_time.standard_error, per_block.standard_error / 0.05)


def logistic(h, _):
    return 4 * h * (1 - h)


@pytest.mark.parametrize("constant", [False, True])
def test_without_an_asymptotic_variance_it_is_called_an_upper_bound(constant):
    """Logistic map at r = 4 (a coboundary) and a constant Jacobian: log 2 and log 0.5, converging like 1/T."""
    step, start, truth = (lambda h, s: 0.5 * h, 1.0, -np.log(2)) if constant else (logistic, 0.3, np.log(2))
    spectrum = fl.lyapunov_spectrum(step, None, state=jnp.array([start]), steps=20_000, transient=100)
    result = spectrum.uncertainty()
    assert result.is_upper_bound.all()
    assert abs(float(spectrum.exponents[0]) - truth) <= float(result.half_width()[0]) + 1e-12


def test_a_chaotic_exponent_has_an_error_bar():
    spectrum = fl.lyapunov_spectrum(henon, None, state=jnp.array([0.1, 0.1]), k=1, steps=41_000, transient=1000)
    result = spectrum.uncertainty()
    assert not result.is_upper_bound[0]
    assert abs(float(spectrum.exponents[0]) - 0.419217) < 4 * float(result.standard_error[0])
    assert float(result.standard_error[0]) < 5e-3


def test_running_mean_ends_at_the_exponents():
    options = {"steps": 103, "transient": 10, "interval": 4, "time_step": 0.1}
    spectrum = fl.lyapunov_spectrum(henon, None, state=jnp.array([0.1, 0.1]), **options)
    running = spectrum.running_mean()
    assert running.shape == spectrum.log_growth.shape == (24, 2)
    np.testing.assert_allclose(running[-1], spectrum.exponents, rtol=0, atol=1e-12)
    np.testing.assert_allclose(running[0], spectrum.log_growth[0] / 0.4, rtol=0, atol=1e-12)


def test_lost_directions_have_no_error_bar():
    spectrum = fl.lyapunov_spectrum(
        lambda h, s: h * jnp.array([1.0, 0.0]), None, state=jnp.ones(2), steps=500, transient=0
    )
    assert np.isnan(spectrum.uncertainty().standard_error[1])


def test_bad_arguments():
    spectrum = fl.lyapunov_spectrum(henon, None, state=jnp.array([0.1, 0.1]), steps=100, transient=0)
    with pytest.raises(ValueError, match="batches must leave 8 blocks for each batch, got batches=20 of 100 blocks"):
        spectrum.uncertainty()
    with pytest.raises(ValueError, match="batches must be an integer of at least 2, got batches=1"):
        spectrum.uncertainty(1)
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got level=1.5"):
        spectrum.uncertainty(4).half_width(1.5)


# Coverage on real systems: 200 independent runs each, as `make verify` reports it.


def henon(h, _):
    return jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])


def lorenz(h, _):
    x, y, z = h
    return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def gaussian_product(h, key):
    return jax.random.normal(key, (10, 10)) @ h / np.sqrt(10)


def coverage(step, start, truth, *, k, length, transient, dt=1.0, interval=1, random=False, runs=200):
    def one(key):
        state = start(key)
        basis = jnp.linalg.qr(jax.random.normal(key, (state.size, k)))[0]
        inputs = jax.random.split(jax.random.fold_in(key, 1), length) if random else None
        options = {"steps": length, "transient": transient, "interval": interval, "time_step": dt}
        spectrum = fl.lyapunov_spectrum(step, inputs, state=state, basis=basis, **options)
        return jnp.abs(spectrum.exponents - truth) < spectrum.uncertainty().half_width()

    many = jax.jit(jax.vmap(one))
    return np.concatenate([many(jax.random.split(jax.random.key(i), 20)) for i in range(runs // 20)]).mean(0)


@pytest.mark.slow
def test_coverage_newman():
    index = np.arange(1, 11)
    exact = 0.5 * (np.log(2 / 10) + special.digamma((10 - index + 1) / 2))
    held = coverage(gaussian_product, lambda key: jnp.zeros(10), exact, k=10, length=3100, transient=100, random=True)
    assert (held >= 0.9).all() and (held <= 0.99).all(), held


@pytest.mark.slow
def test_coverage_henon():
    held = coverage(
        henon, lambda key: 0.1 * jax.random.uniform(key, (2,)), 0.419217, k=1, length=21_000, transient=1000
    )
    assert 0.9 <= held[0] <= 0.99, held


@pytest.mark.slow
def test_coverage_lorenz():
    def start(key):
        return jnp.array([1.0, 1.0, 20.0]) + jax.random.normal(key, (3,))

    options = {"k": 1, "length": 1_002_000, "transient": 2000, "dt": 0.01, "interval": 10}
    held = coverage(rk4(lorenz, 0.01), start, 0.90563, **options)
    assert 0.9 <= held[0] <= 0.99, held
