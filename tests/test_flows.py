"""Flows: exact sums up to the integrator's error, which decreases at the integrator's order."""

import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing.flows import diffrax_step, rk4
from tests.test_uncertainty import lorenz

START = jnp.array([1.0, 2.0, 20.0])


def lorenz_spectrum(make, dt, time=200):
    steps = round(time / dt)
    run = {"steps": steps, "transient": steps // 10, "time_step": dt, "interval": 5}
    return fl.lyapunov_spectrum(make(lorenz, dt), None, state=START, **run)


@pytest.mark.parametrize(("make", "order", "error"), [(rk4, 4, 2e-4), (diffrax_step, 5, 1e-6)])
def test_the_sum_of_lorenz_is_exact_up_to_the_integrator(make, order, error):
    """-(sigma + 1 + beta), per unit of time; halving dt divides the error by about 2^order."""
    if make is diffrax_step:
        pytest.importorskip("diffrax")
    coarse, fine = (abs(float(lorenz_spectrum(make, dt).exponents.sum()) + 41 / 3) for dt in (0.01, 0.005))
    assert coarse < error
    assert fine < coarse / 2 ** (order - 1)


def test_lorenz_exponents():
    spectrum = lorenz_spectrum(rk4, 0.01, time=2000)
    np.testing.assert_allclose(spectrum.exponents, [0.90563, 0, -14.57219], atol=0.02)
    assert spectrum.uncertainty().is_upper_bound[1]  # the direction of the flow: a zero exponent has no error bar
    assert float(fl.kaplan_yorke_dimension(spectrum.exponents)) == pytest.approx(2.06215, abs=2e-3)


def test_linear_flows_of_pytrees_with_inputs():
    """x' = -a x + s: exponents -a per unit of time, whatever the input."""

    def field(state, s):
        return {"slow": -0.5 * state["slow"] + s, "fast": -2.0 * state["fast"]}

    state = {"slow": jnp.zeros(1), "fast": jnp.ones(1)}
    for make, tolerance in ((rk4, 1e-4), (diffrax_step, 1e-5)):
        step = make(field, 0.1)
        # A random basis turns into place like exp(-1.5 t).
        spectrum = fl.lyapunov_spectrum(step, jnp.ones((400, 1)), state=state, transient=200, time_step=0.1)
        np.testing.assert_allclose(spectrum.exponents, [-0.5, -2.0], atol=tolerance)


@pytest.mark.parametrize("make", [rk4, diffrax_step])
@pytest.mark.parametrize("dt", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_dt(make, dt):
    with pytest.raises(ValueError, match="dt must be a positive number, got dt="):
        make(lorenz, dt)


def test_bad_time_step():
    with pytest.raises(ValueError, match="time_step must be a positive number, got time_step=0.0"):
        fl.lyapunov_spectrum(rk4(lorenz, 0.01), None, state=START, steps=10, time_step=0.0, transient=0)
