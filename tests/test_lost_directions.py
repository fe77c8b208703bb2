"""A long interval and a singular Jacobian both lose directions; the library distinguishes the two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flossing as fl
import flossing.pytorch as flt


def lorenz(h, _):
    x, y, z = h
    return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def lorenz_exponents(interval, dtype, steps=4000):
    start, step = jnp.array([1.0, 2.0, 20.0], dtype), fl.flows.rk4(lorenz, 0.01)
    options = {"steps": steps, "transient": 1000, "time_step": 0.01, "interval": interval}
    return fl.lyapunov_spectrum(step, None, state=start, **options).exponents


def test_a_long_interval_in_float32_is_refused_with_a_legal_one():
    with pytest.raises(
        ValueError, match="interval must be from 1 to (16|32) for this run in float32, got interval=100"
    ) as e:
        lorenz_exponents(100, jnp.float32)
    assert "direction 2" in str(e.value)
    found = lorenz_exponents(16, jnp.float32)
    np.testing.assert_allclose(found, [0.9, 0, -14.57], atol=0.2)  # an orbit of 30 units of time
    np.testing.assert_allclose(found.sum(), -41 / 3, atol=2e-3)


def test_a_long_interval_in_float64_is_refused_with_a_legal_one():
    with pytest.raises(ValueError, match="interval must be from 1 to 128 for this run in float64, got interval=400"):
        lorenz_exponents(400, jnp.float64)
    found = lorenz_exponents(128, jnp.float64)
    np.testing.assert_allclose(found, [0.9, 0, -14.57], atol=0.2)
    np.testing.assert_allclose(found.sum(), -41 / 3, atol=2e-3)


@pytest.mark.parametrize("growth", [20.0, -20.0])
def test_over_and_underflow_of_an_interval_are_not_blamed_on_the_step(growth):
    start, rate = jnp.zeros(1, jnp.float32), float(np.exp(growth))
    with pytest.raises(ValueError, match="interval must be 1 for this run in float32, got interval=5"):
        fl.lyapunov_spectrum(lambda x, _: jnp.float32(rate) * x, None, state=start, steps=20, interval=5)
    with pytest.raises(ValueError, match="interval must be 1 for this run in float32, got interval=5"):
        flt.lyapunov_spectrum(lambda x, _: rate * x, None, state=torch.zeros(1), steps=20, interval=5)


def test_columns_of_different_size_are_not_lost():
    """A diagonal step keeps the columns apart, however long the interval."""
    exact = np.log([2.0, 0.5])
    step, start = (lambda x, _: jnp.array([2.0, 0.5], jnp.float32) * x), jnp.ones(2, jnp.float32)
    found = fl.lyapunov_spectrum(step, None, state=start, steps=10, interval=64, basis=jnp.eye(2))
    np.testing.assert_allclose(found.exponents, exact, rtol=1e-6)
    step, start = (lambda x, _: torch.tensor([2.0, 0.5]) * x), torch.ones(2)
    found = flt.lyapunov_spectrum(step, None, state=start, steps=10, interval=64, basis=torch.eye(2))
    np.testing.assert_allclose(found.exponents, exact, rtol=1e-6)


def test_one_step_of_condition_a_million_is_resolved_in_float32():
    rng, d = np.random.default_rng(0), np.array([1, 1e-3, 1e-6], np.float32)
    turns = np.linalg.qr(rng.standard_normal((61, 3, 3)))[0].astype(np.float32)
    inputs = turns[:-1], turns[1:]
    found = fl.lyapunov_spectrum(
        lambda x, at: at[1] @ (d * (at[0].T @ x)), inputs, state=jnp.ones(3, jnp.float32), basis=turns[0]
    )
    np.testing.assert_allclose(found.exponents, np.log(d), atol=1e-3)
    found = flt.lyapunov_spectrum(
        lambda x, at: at[1] @ (torch.tensor(d) * (at[0].T @ x)),
        tuple(map(torch.tensor, inputs)),
        state=torch.ones(3),
        basis=turns[0],
    )
    np.testing.assert_allclose(found.exponents, np.log(d), atol=1e-3)


@pytest.mark.parametrize("interval", [1, 4])
def test_what_the_jacobian_destroys_is_minus_infinity_at_any_interval(interval):
    """A symmetric singular matrix: its null direction becomes a column of Q, whose image is rounding alone."""
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    matrix = jnp.asarray(q @ np.diag([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.0]) @ q.T, jnp.float32)
    found = fl.lyapunov_spectrum(
        lambda x, _: matrix @ x, None, state=jnp.ones(8, jnp.float32), steps=60, interval=interval
    )
    assert np.isneginf(found.exponents[-1])
    np.testing.assert_allclose(found.exponents[:3], np.log([1.0, 0.9, 0.8]), atol=0.02)


def test_inside_jit_a_lost_direction_is_minus_infinity():
    def run():
        step = lambda x, _: jnp.array([[2.0, 1.0], [0.0, 0.5]], jnp.float32) @ x  # noqa: E731
        return fl.lyapunov_spectrum(step, None, state=jnp.ones(2, jnp.float32), steps=64, interval=32).exponents

    assert np.isneginf(jax.jit(run)()[1])
    with pytest.raises(ValueError, match="interval must be from 1 to 4 for this run"):
        run()
