"""Norms of backpropagated gradients against JAX's own reverse pass where that is finite, and beyond it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._runtime.compiled import _program
from tests.helpers import tanh_network

KEY = jax.random.key(1)


def orbit(step, state, inputs, noise):
    """h_0 ... h_T with a small push added to each: its gradient is dL/dh_t, by definition."""
    states = [state + noise[0]]
    for t in range(len(inputs)):
        states.append(step(states[-1], inputs[t]) + noise[t + 1])
    return jnp.stack(states)


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_equals_the_gradient_at_each_time(gain):
    make, J = tanh_network(5, gain, KEY)
    inputs = jax.random.normal(KEY, (12, 5))
    weights = jax.random.normal(jax.random.key(2), (13, 5))

    def loss(states):
        return (weights * states**2).sum()

    exact = jax.jit(jax.grad(lambda noise: loss(orbit(make(J), jnp.zeros(5), inputs, noise))))(jnp.zeros((13, 5)))
    found = fl.backpropagated_norms(make(J), inputs, loss, state=jnp.zeros(5))
    np.testing.assert_allclose(found.log_norm, np.log(np.linalg.norm(exact, axis=1)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.norm(), np.linalg.norm(exact, axis=1), rtol=1e-9)
    assert not found.overflows
    assert found.finite_steps == 12


def test_a_loss_on_the_last_step_decays_at_the_exponent():
    """h' = 0.8 h: the gradient falls by log 0.8 a step, and below 1 % after 20 steps back (0.8^21 < 0.01 < 0.8^20)."""
    found = fl.backpropagated_norms(lambda h, s: 0.8 * h, None, lambda h: h[-1].sum(), state=jnp.ones(3), steps=60)
    np.testing.assert_allclose(np.diff(found.log_norm), -np.log(0.8), rtol=0, atol=1e-12)
    assert found.horizon(0.01) == 20
    assert found.horizon(1e-30) == 60


def test_sequences_of_a_vmap_are_those_alone():
    """Growth at 5, 3 and 0.5 a step over 1100 steps: the first two overflow, beyond 441 and 646 steps back."""
    rates = jnp.array([5.0, 3.0, 0.5])

    def measure(rate):
        return fl.backpropagated_norms(
            lambda h, s: rate * h, None, lambda h: h[-1].sum(), state=jnp.zeros(1), steps=1100
        )

    many = jax.vmap(measure)(rates)
    alone = [measure(rate) for rate in rates]
    np.testing.assert_array_equal(many.finite_steps, [441, 646, 1100])
    np.testing.assert_array_equal(many.finite_steps, [one.finite_steps for one in alone])
    np.testing.assert_array_equal(many.horizon(0.1), [1100, 1100, 3])
    np.testing.assert_array_equal(many.horizon(0.1), [one.horizon(0.1) for one in alone])
    with pytest.raises(FloatingPointError, match="over 1100 steps overflows.*at most 441 steps stay finite"):
        many.norm()


def test_an_equal_loss_reuses_the_program():
    def measure(goal):
        loss = lambda states: (goal * states[-1]).sum()  # noqa: E731
        return fl.backpropagated_norms(lambda h, s: h / 2 + s, jnp.ones((4, 5)), loss, state=jnp.zeros(5)).log_norm[0]

    before = _program.cache_info()
    one, other = measure(jnp.asarray(1.0)), measure(jnp.asarray(math.e))
    after = _program.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)
    assert other - one == pytest.approx(1)


def test_overflow_is_named_with_the_horizon_that_works():
    """h' = 4 h: |dL/dh_t| = 4^(T - t) passes the largest double, 2^1024, at 512 steps back."""
    found = fl.backpropagated_norms(lambda h, s: 4 * h, None, lambda h: h[-1].sum(), state=jnp.zeros(1), steps=600)
    assert found.overflows
    assert found.finite_steps == 511
    np.testing.assert_allclose(found.log_norm[0], 600 * np.log(4), rtol=1e-12)
    with pytest.raises(FloatingPointError, match="over 600 steps overflows.*at most 511 steps stay finite"):
        found.norm()

    def plain(h, steps):
        return jax.lax.fori_loop(0, steps, lambda _, h: 4 * h, h)

    gradient = jax.grad(lambda h, steps: plain(h, steps), argnums=0)
    assert np.isfinite(gradient(0.0, 511))
    assert np.isinf(gradient(0.0, 512))


def test_gradients_far_below_the_smallest_number():
    found = fl.backpropagated_norms(lambda h, s: 1e-3 * h, None, lambda h: h[-1].sum(), state=jnp.ones(2), steps=300)
    np.testing.assert_allclose(np.diff(found.log_norm), 3 * np.log(10), rtol=0, atol=1e-9)


def test_chaotic_network_in_float32():
    make, J = tanh_network(60, 4.0, KEY)
    step = make(J.astype(jnp.float32))
    inputs = jnp.zeros((600, 60), jnp.float32)
    state = jax.random.normal(KEY, (60,), jnp.float32)
    found = fl.backpropagated_norms(step, inputs, lambda h: h[-1].sum(), state=state)
    assert found.log_norm.dtype == np.float32
    assert np.isfinite(found.log_norm).all()
    assert found.overflows
    exponent = fl.lyapunov_spectrum(step, inputs, state=state, k=1, transient=50).exponents[0]
    assert float(found.log_norm[0]) / 600 == pytest.approx(float(exponent), rel=0.2)


def test_no_gradient_at_all():
    found = fl.backpropagated_norms(lambda h, s: h, None, lambda h: (h[0] ** 2).sum(), state=jnp.ones(2), steps=4)
    assert np.isneginf(found.log_norm[1:]).all()
    assert float(found.log_norm[0]) == pytest.approx(np.log(2 * np.sqrt(2)))


def test_pytree_states_with_counters():
    def step(state, s):
        h, n = state
        return 0.5 * h + s, n + 1

    found = fl.backpropagated_norms(
        step, jnp.ones((7, 2)), lambda h: h[0][-1].sum(), state=(jnp.zeros(2), jnp.array(0))
    )
    np.testing.assert_allclose(np.diff(found.log_norm), np.log(2), rtol=0, atol=1e-12)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"loss must return a scalar, got shape \(2,\)"):
        fl.backpropagated_norms(lambda h, s: h, None, lambda h: h[-1], state=jnp.ones(2), steps=4)
    found = fl.backpropagated_norms(lambda h, s: h, None, lambda h: h[-1].sum(), state=jnp.ones(2), steps=4)
    with pytest.raises(ValueError, match="threshold must be a positive number, got threshold=0.0"):
        found.horizon(0.0)


def along(step, loss, steps=3, **options):
    return fl.backpropagated_norms(step, None, loss, state=jnp.full(4, 2.0, "f4"), steps=steps, **options)


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e-20, 1e25, 1e37])
def test_losses_and_jacobians_of_any_size(size):
    found = along(lambda h, s: 0.9 * h, lambda h: jnp.float32(size) * h[-1].sum())
    wanted = np.log(2 * size) + np.log(0.9) * np.arange(3, -1, -1)
    np.testing.assert_allclose(found.log_norm, wanted, rtol=1e-5)
    if size < 1:
        found = along(lambda h, s: jnp.float32(size) * h, lambda h: h[-1].sum())
        np.testing.assert_allclose(found.log_norm, np.log(2) + np.log(size) * np.arange(3, -1, -1), rtol=1e-5)


def test_what_escapes_is_named():
    with pytest.raises(ValueError, match="step must keep the state finite, got NaN or infinity at time 5 of 20"):
        along(lambda h, s: 10 * h**2, lambda h: h[-1].sum(), steps=20)
    with pytest.raises(ValueError, match="loss must have finite gradients, got NaN or infinity at time 3 of 3"):
        along(lambda h, s: 0.9 * h, lambda h: jnp.log(h[-1] - h[-1]).sum())
    with pytest.raises(ValueError, match="step must have finite derivatives, got NaN or infinity at time 2 of 3"):
        along(lambda h, s: jnp.sqrt(h * 0), lambda h: h[-1].sum())
