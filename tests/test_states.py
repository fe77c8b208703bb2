"""States of any structure, and what dtypes do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from tests.helpers import tanh_network

KEY = jax.random.key(3)


def two_part_step(W):
    """A step on (h, c), and the same on the flat vector."""
    n = W.shape[0] // 2

    def flat(x, s):
        return jnp.tanh(W @ x) + s

    def pytree(state, s):
        h, c = state
        x = flat(jnp.concatenate([h, c]), s)
        return x[:n], x[n:]

    return flat, pytree


def test_pytree_state_equals_its_flat_twin():
    W = jax.random.normal(KEY, (6, 6))
    flat, pytree = two_part_step(W)
    inputs = 0.1 * jax.random.normal(KEY, (30, 6))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0]
    options = {"basis": basis, "transient": 3, "interval": 2}
    ours = fl.lyapunov_spectrum(pytree, inputs, state=(jnp.zeros(3), jnp.zeros(3)), **options)
    twin = fl.lyapunov_spectrum(flat, inputs, state=jnp.zeros(6), **options)
    np.testing.assert_allclose(ours.log_growth, twin.log_growth, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.basis, twin.basis, rtol=0, atol=1e-12)
    assert isinstance(ours.state, tuple)
    np.testing.assert_allclose(jnp.concatenate(ours.state), twin.state, rtol=0, atol=1e-12)

    def loss(W, which, state):
        return fl.lyapunov_spectrum(two_part_step(W)[which], inputs, state=state, **options).exponents.sum()

    np.testing.assert_allclose(
        jax.grad(loss)(W, 1, (jnp.zeros(3), jnp.zeros(3))), jax.grad(loss)(W, 0, jnp.zeros(6)), rtol=0, atol=1e-12
    )


def test_matrix_states_and_inputs_as_pytrees():
    make, J = tanh_network(6, 1.0, KEY)
    inputs = jax.random.normal(KEY, (20, 6))
    flat = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(6), transient=0)

    def step(h, s):
        return make(J)(h.ravel(), s["left"] + s["right"]).reshape(2, 3)

    shaped = fl.lyapunov_spectrum(step, {"left": inputs / 2, "right": inputs / 2}, state=jnp.zeros((2, 3)), transient=0)
    np.testing.assert_allclose(shaped.exponents, flat.exponents, rtol=0, atol=1e-12)
    assert shaped.state.shape == (2, 3)


def test_keys_and_counters_are_carried_without_a_tangent():
    make, J = tanh_network(4, 1.0, KEY)

    def step(state, s):
        key, draw = jax.random.split(state["key"])
        h = make(J)(state["h"], s + 0.1 * jax.random.normal(draw, (4,)))
        return {"h": h, "key": key, "count": state["count"] + 1}

    start = {"h": jnp.zeros(4), "key": jax.random.key(7), "count": jnp.array(0)}
    spectrum = fl.lyapunov_spectrum(step, jnp.ones((25, 4)), state=start, transient=0)
    assert spectrum.exponents.shape == (4,)
    assert int(spectrum.state["count"]) == 25

    noise, key = [], jax.random.key(7)
    for _ in range(25):
        key, draw = jax.random.split(key)
        noise.append(jax.random.normal(draw, (4,)))
    plain = fl.lyapunov_spectrum(make(J), 1 + 0.1 * jnp.stack(noise), state=jnp.zeros(4), transient=0)
    np.testing.assert_allclose(spectrum.exponents, plain.exponents, rtol=0, atol=1e-12)


def test_a_complex_state_counts_twice():
    """z' = a z has the two real exponents log|a|, log|a|."""
    factor = jnp.array([0.5 + 0.5j, 2.0j])
    spectrum = fl.lyapunov_spectrum(lambda z, s: factor * z, None, state=jnp.ones(2, complex), steps=50, transient=0)
    expected = np.log([2.0, 2.0, np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_allclose(spectrum.exponents, expected, atol=0.1)
    np.testing.assert_allclose(spectrum.exponents.sum(), expected.sum(), rtol=0, atol=1e-9)
    assert spectrum.state.dtype == complex


def test_float32_in_float32_out():
    make, J = tanh_network(6, 1.0, KEY)
    inputs = jax.random.normal(KEY, (40, 6))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 3)))[0]
    double = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(6), basis=basis)
    single = fl.lyapunov_spectrum(
        make(J.astype(jnp.float32)),
        inputs.astype(jnp.float32),
        state=jnp.zeros(6, jnp.float32),
        basis=basis.astype("f4"),
    )
    assert {x.dtype for x in (single.exponents, single.log_growth, single.state, single.basis)} == {np.dtype("float32")}
    np.testing.assert_allclose(single.exponents, double.exponents, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_float32_whose_squares_would_overflow(factor):
    basis = np.eye(2, dtype="f4")
    spectrum = fl.lyapunov_spectrum(
        lambda h, s: jnp.float32(factor) * h, None, state=jnp.zeros(2, "f4"), steps=5, basis=basis
    )
    np.testing.assert_allclose(spectrum.exponents, np.log(factor), rtol=1e-6)


def test_float64_arrays_need_x64():
    with jax.enable_x64(False):
        spectrum = fl.lyapunov_spectrum(lambda h, s: 0.5 * h, None, state=jnp.zeros(2), steps=4, transient=0)
        assert spectrum.exponents.dtype == np.float32
        with pytest.raises(ValueError, match="state is float64 but JAX runs with x64 off"):
            fl.lyapunov_spectrum(lambda h, s: 0.5 * h, None, state=np.zeros(2), steps=4, transient=0)
        with pytest.raises(ValueError, match="inputs is float64 but JAX runs with x64 off"):
            fl.lyapunov_spectrum(lambda h, s: 0.5 * h, np.zeros((4, 2)), state=jnp.zeros(2), transient=0)
