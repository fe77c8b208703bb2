"""Derivatives of exponents: a closed formula, forward = reverse = central differences, and singular Jacobians."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import flossing as fl
from tests.helpers import tanh_network

KEY = jax.random.key(5)


def test_linear_step_has_the_gradient_of_its_eigenvalue():
    """d lambda_1 / dW = l r^T / (l^T r mu), for a simple real dominant eigenvalue mu with vectors l, r."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 5))
    W = vectors @ np.diag([1.3, 0.6, -0.5, 0.3, 0.1]) @ np.linalg.inv(vectors)
    r, left = vectors[:, 0], np.linalg.inv(vectors)[0]
    exact = np.outer(left, r) / (left @ r * 1.3)

    def first(W):
        options = {"steps": 400, "transient": 200, "k": 1, "key": KEY}
        return fl.lyapunov_spectrum(lambda h, s: W @ h, None, state=jnp.zeros(5), **options).exponents[0]

    np.testing.assert_allclose(jax.jit(jax.grad(first))(jnp.asarray(W)), exact, rtol=0, atol=1e-9 * np.abs(exact).max())


@settings(max_examples=4, deadline=None)
@given(k=st.integers(1, 6), interval=st.integers(1, 5), transient=st.integers(0, 9), seed=st.integers(0, 2**31))
def test_forward_reverse_and_central_differences_agree(k, interval, transient, seed):
    make, J = tanh_network(6, 1.2, jax.random.key(seed))
    inputs = 0.3 * jax.random.normal(jax.random.key(seed + 1), (20, 6))
    direction = jax.random.normal(jax.random.key(seed + 2), (6, 6))
    weights = jax.random.normal(jax.random.key(seed + 3), (k,))

    def weighted(J):
        options = {"k": k, "key": KEY, "interval": interval, "transient": transient}
        return weights @ fl.lyapunov_spectrum(make(J), inputs, state=0.1 * jnp.ones(6), **options).exponents

    f = jax.jit(weighted)
    forward = jax.jit(lambda J, v: jax.jvp(f, (J,), (v,))[1])(J, direction)
    reverse = jnp.vdot(jax.jit(jax.grad(f))(J), direction)
    # Eighth-order central differences; the step is small since log R_ii bends sharply where R_ii is small.
    e, c = 1e-5, np.array([4 / 5, -1 / 5, 4 / 105, -1 / 280])
    central = sum(c[i] * (f(J + (i + 1) * e * direction) - f(J - (i + 1) * e * direction)) for i in range(4)) / e
    scale = max(abs(float(central)), 1.0)
    assert float(forward) == pytest.approx(float(reverse), abs=1e-9 * scale)
    assert float(forward) == pytest.approx(float(central), abs=1e-6 * scale)


def test_gradients_in_state_and_inputs():
    make, J = tanh_network(4, 1.2, KEY)
    inputs = 0.3 * jax.random.normal(KEY, (15, 4))

    def total(state, inputs):
        return fl.lyapunov_spectrum(make(J), inputs, state=state, k=3, transient=0).exponents.sum()

    jax.test_util.check_grads(jax.jit(total), (0.1 * jnp.ones(4), inputs), order=1, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_second_derivatives():
    def total(gain):
        make, J = tanh_network(4, 1.2, KEY)
        step = make(gain * J)
        return (
            fl.lyapunov_spectrum(step, jnp.ones((4, 4)), state=0.1 * jnp.ones(4), k=2, transient=0).exponents ** 2
        ).sum()

    jax.test_util.check_grads(jax.jit(total), (jnp.array(0.9),), order=2, modes=["rev"], eps=1e-6, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_singular_jacobian_loses_its_direction_and_no_other(rank):
    """Rank r of 6: exponents r+1... are -inf without gradient, the first r as in the run with k = r."""
    rng = np.random.default_rng(rank)
    W = jnp.asarray(rng.normal(size=(6, rank)) @ rng.normal(size=(rank, 6)))
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]

    def exponents(W, k):
        return fl.lyapunov_spectrum(
            lambda h, s: W @ h, None, state=jnp.zeros(6), steps=20, basis=basis[:, :k], transient=2
        ).exponents

    full, part = exponents(W, 6), exponents(W, rank)
    assert np.isneginf(full[rank:]).all()
    np.testing.assert_allclose(full[:rank], part, rtol=0, atol=1e-9)
    jacobian, expected = (jax.jit(jax.jacrev(exponents), static_argnums=1)(W, k) for k in (6, rank))
    np.testing.assert_allclose(jacobian[:rank], expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_array_equal(jacobian[rank:], 0)
    forward = jax.jit(jax.jacfwd(exponents), static_argnums=1)(W, 6)
    np.testing.assert_allclose(forward, jacobian, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_a_single_singular_step_loses_the_direction_for_good():
    """Units dead in one of many steps: the product of all Jacobians loses them, though later ones are regular."""
    scale = jnp.ones((10, 3)).at[4, 1:].set(0.0)

    def exponents(scale):
        return fl.lyapunov_spectrum(lambda h, s: s * h, scale, state=jnp.ones(3), key=KEY, transient=0).exponents

    np.testing.assert_array_equal(np.isneginf(exponents(scale)), [False, True, True])
    gradient = jax.jit(jax.jacrev(exponents))(scale)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1:], 0)
    assert np.abs(gradient[0]).max() > 0


def test_zero_jacobian():
    with pytest.warns(UserWarning, match="all exponents are -inf"):
        spectrum = fl.lyapunov_spectrum(lambda h, s: s, jnp.ones((5, 3)), state=jnp.ones(3), transient=0)
    assert np.isneginf(spectrum.exponents).all()


def test_flossing_loss_names_the_infinite_exponent():
    with pytest.raises(ValueError, match=r"exponents\[2\]=-inf.*use k <= 2"):
        fl.flossing_loss(jnp.array([0.0, -1.0, -jnp.inf, -jnp.inf]))


def test_flossing_loss_values_and_targets():
    exponents = jnp.array([0.5, -1.0])
    assert float(fl.flossing_loss(exponents)) == pytest.approx((0.25 + 1.0) / 2)
    assert float(fl.flossing_loss(exponents, np.array([0.5, -2.0]))) == pytest.approx(0.5)
    assert float(fl.flossing_loss(exponents, -1)) == pytest.approx(2.25 / 2)
    with pytest.raises(ValueError, match=r"target must be a scalar or have shape \(2,\).*\(3,\)"):
        fl.flossing_loss(exponents, np.zeros(3))
