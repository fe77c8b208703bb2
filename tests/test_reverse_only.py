"""Steps with a reverse rule alone: surrogate spikes by custom_vjp, adaptive solvers with their default adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._runtime.compiled import _program

W = jax.random.normal(jax.random.key(0), (6, 6)) / 6**0.5
DRIVE = jax.random.normal(jax.random.key(1), (60, 6))
STATE = jnp.zeros(6)


@jax.custom_vjp
def by_vjp(v):
    return (v > 0).astype(v.dtype)


by_vjp.defvjp(lambda v: (by_vjp(v), v), lambda v, g: (g / (1 + 10 * jnp.abs(v)) ** 2,))


@jax.custom_jvp
def by_jvp(v):
    return (v > 0).astype(v.dtype)


by_jvp.defjvp(lambda v, dv: (by_jvp(*v), dv[0] / (1 + 10 * jnp.abs(v[0])) ** 2))


def spiking(spike):
    return lambda w, v, s: 0.9 * v + w @ spike(v - 1) + s


def test_surrogate_spikes_have_the_numbers_of_a_forward_rule():
    ours, theirs = (
        fl.lyapunov_spectrum(W, DRIVE, state=STATE, k=3, step=spiking(spike)).exponents for spike in (by_vjp, by_jvp)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_gradients_too():
    def total(w, spike):
        return fl.lyapunov_spectrum(w, DRIVE, state=STATE, k=3, step=spiking(spike)).exponents.sum()

    np.testing.assert_allclose(jax.grad(total)(W, by_vjp), jax.grad(total)(W, by_jvp), atol=1e-10)


@pytest.mark.usefixtures("optax_promotion")
def test_floss_of_surrogate_spikes():
    losses = [
        fl.floss(W, DRIVE, state=STATE, k=3, epochs=3, step=spiking(spike), report=False)[1].loss
        for spike in (by_vjp, by_jvp)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_step_that_is_made_again_is_not_compiled_again():
    def make():
        @jax.custom_vjp
        def spike(v):
            return (v > 0).astype(v.dtype)

        spike.defvjp(lambda v: (spike(v), v), lambda v, g: (g / (1 + 10 * jnp.abs(v)) ** 2,))
        return lambda v, s: 0.9 * v + W @ spike(v - 1) + s

    fl.lyapunov_spectrum(make(), DRIVE, state=STATE, k=3)
    before = _program.cache_info().misses
    fl.lyapunov_spectrum(make(), DRIVE, state=STATE, k=3)
    assert _program.cache_info().misses == before


def test_an_adaptive_solver_with_its_default_adjoint():
    diffrax = pytest.importorskip("diffrax")
    term = diffrax.ODETerm(lambda t, y, args: -y * jnp.array([1.0, 2.0, 5.0]))
    controller = diffrax.PIDController(rtol=1e-8, atol=1e-12)

    def step(y, _):
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 0.1, 0.01, y, stepsize_controller=controller).ys[-1]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = fl.lyapunov_spectrum(step, None, state=jnp.ones(3), steps=20, time_step=0.1, basis=jnp.eye(3))
    np.testing.assert_allclose(found.exponents, [-1, -2, -5], atol=1e-5)


def test_a_step_without_any_derivative_is_refused():
    def step(y, _):
        return jax.pure_callback(lambda y: y * 0.5, jax.ShapeDtypeStruct((3,), y.dtype), y)

    with pytest.raises(ValueError, match="step must have a derivative, in forward or in reverse mode, got Pure callb"):
        fl.lyapunov_spectrum(step, None, state=jnp.ones(3), steps=9)
