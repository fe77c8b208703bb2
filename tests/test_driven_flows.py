"""Flows with a drive: order 4 where the field sees the time, order 2 and less where the input is held over a step."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl

OMEGA, TOTAL, SKIP = 2 * np.pi, 40.0, 20.0
START = jnp.array([0.5, 0.1])


def forced(h, t):
    """A Stuart-Landau oscillator, locked to a force."""
    x, y = h[0], h[1]
    r2, w = x * x + y * y, OMEGA + 0.3
    return jnp.stack([x - w * y - x * r2 + 3 * jnp.cos(OMEGA * t), y + w * x - y * r2])


def with_time(h, _, t):
    return forced(h, t)


def largest(dt, step, *, held=False):
    steps = round(TOTAL / dt)
    inputs = jnp.arange(steps, dtype=float) * dt if held else fl.flows.clock(steps, dt)
    run = {"transient": round(SKIP / dt), "time_step": dt, "interval": 5}
    return float(fl.lyapunov_spectrum(step, inputs, state=START, **run).exponents[0])


@functools.cache
def truth():
    return largest(0.005, fl.flows.rk4(with_time, 0.005))


def orders(make, **options):
    errors = [abs(largest(dt, make(dt), **options) - truth()) for dt in (0.04, 0.02)]
    return np.log2(errors[0] / errors[1])


def test_a_field_that_sees_the_time_is_of_fourth_order():
    assert 3.7 < orders(lambda dt: fl.flows.rk4(with_time, dt)) < 4.5


def test_an_input_that_is_held_is_of_second_order():
    assert 1.7 < orders(lambda dt: fl.flows.rk4(forced, dt), held=True) < 2.3


def test_a_field_that_sees_the_time_in_diffrax():
    pytest.importorskip("diffrax")
    ours = largest(0.01, fl.flows.diffrax_step(with_time, 0.01))
    assert ours == pytest.approx(truth(), abs=1e-6)


def test_held_inputs_beside_the_time():
    """x' = u_t - x cos t with u held: exact growth of the linear part, exp(-integral of cos)."""
    steps, dt = 200, 0.05
    step = fl.flows.rk4(lambda x, u, t: u - x * jnp.cos(t), dt)
    inputs = fl.flows.clock(steps, dt, jnp.ones((steps, 1)), start=0.3)
    found = fl.lyapunov_spectrum(step, inputs, state=jnp.zeros(1), transient=0, time_step=dt)
    np.testing.assert_allclose(found.exponents, -(np.sin(10.3) - np.sin(0.3)) / 10, atol=1e-7)


def test_an_implicit_solver_needs_tolerances():
    diffrax = pytest.importorskip("diffrax")
    with pytest.raises(ValueError, match="solver must have a root finder with tolerances of its own"):
        fl.flows.diffrax_step(lambda y, _: -y, 0.1, diffrax.ImplicitEuler())
    solver = diffrax.ImplicitEuler(root_finder=diffrax.VeryChord(rtol=1e-8, atol=1e-8))
    step = fl.flows.diffrax_step(lambda y, _: -y, 0.1, solver)
    found = fl.lyapunov_spectrum(step, None, state=jnp.ones(2), steps=9, time_step=0.1)
    np.testing.assert_allclose(found.exponents, -np.log(1.1) / 0.1, atol=1e-6)
