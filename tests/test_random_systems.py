"""Random systems: JAX, PyTorch and thirty lines of NumPy agree, or the library refuses and names the argument."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import flossing as fl
import flossing.pytorch as flt

NAMED = ("interval", "transient", "lengths", "basis", "steps", "k must", "batched")


def reference(weights, inputs, state, leak, basis, transient):
    """h' = (1 - a) h + a tanh(W h + s): the exponents, from QR of the Jacobians after every step, in float64."""
    weights, inputs, state, q = (np.asarray(x, np.float64) for x in (weights, inputs, state, basis))
    q, r = np.linalg.qr(q)
    total, count = np.zeros(q.shape[1]), 0
    for t, s in enumerate(inputs):
        new = np.tanh(weights @ state + s)
        jacobian = (1 - leak) * np.eye(len(state)) + leak * (1 - new**2)[:, None] * weights
        state = (1 - leak) * state + leak * new
        q, r = np.linalg.qr(jacobian @ q)
        if t >= transient:
            total, count = total + np.log(np.abs(np.diag(r))), count + 1
    return total / count


@st.composite
def systems(draw):
    units = draw(st.integers(1, 6))
    steps = draw(st.integers(2, 30))
    batch = draw(st.one_of(st.none(), st.integers(1, 3)))
    lengths = draw(st.lists(st.integers(2, steps), min_size=batch, max_size=batch)) if batch else None
    shortest = min(lengths) if lengths else steps
    return {
        "seed": draw(st.integers(0, 10_000)),
        "units": units,
        "k": draw(st.integers(1, units)),
        "steps": steps,
        "batch": batch,
        "lengths": draw(st.sampled_from([None, lengths])) if batch else None,
        "transient": draw(st.integers(0, shortest - 1)),
        "interval": draw(st.integers(1, 40)),
        "gain": draw(st.sampled_from([0.3, 1.0, 2.0, 6.0])),
        "leak": draw(st.sampled_from([1.0, 0.5, 0.1])),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
    }


def found_or_refused(run):
    """The exponents, or None if the library refused in one line that names the argument."""
    try:
        return np.asarray(run().exponents)
    except ValueError as error:
        if not str(error).startswith(NAMED) or "\n" in str(error):
            raise
        return None


def compare(system):
    rng, dtype = np.random.default_rng(system["seed"]), system["dtype"]
    units, batch, leak = system["units"], system["batch"], system["leak"]
    weights = (system["gain"] * rng.normal(size=(units, units)) / np.sqrt(units)).astype(dtype)
    inputs = rng.normal(size=(*([batch] if batch else []), system["steps"], units)).astype(dtype)
    state, basis = rng.normal(size=units).astype(dtype), rng.normal(size=(units, system["k"])).astype(dtype)
    rows, lengths = inputs if batch else inputs[None], system["lengths"] or [system["steps"]] * (batch or 1)
    truth = np.array(
        [
            reference(weights, row[:n], state, leak, basis, system["transient"])
            for row, n in zip(rows, lengths, strict=True)
        ]
    )
    options = {name: system[name] for name in ("transient", "interval")} | {"batched": bool(batch)}
    options |= {"lengths": system["lengths"]} if system["lengths"] else {}
    scale = jnp.asarray(leak, dtype)

    def in_jax(h, s):
        return (1 - scale) * h + scale * jnp.tanh(jnp.asarray(weights) @ h + s)

    def in_torch(h, s):
        return (1 - leak) * h + leak * torch.tanh(torch.as_tensor(weights) @ h + s)

    # Chaos amplifies the rounding of the state, and an interval that of the slow directions.
    tolerance = 5e-2 if dtype == np.float32 else 1e-6
    given = {"basis": basis, **options}
    runs = {
        "jax": lambda: fl.lyapunov_spectrum(in_jax, jnp.asarray(inputs), state=jnp.asarray(state), **given),
        "torch": lambda: flt.lyapunov_spectrum(
            in_torch, torch.as_tensor(inputs), state=torch.as_tensor(state), **given
        ),
    }
    for name, run in runs.items():
        found = found_or_refused(run)
        assert found is not None or system["interval"] > 1  # longer ones may lose a direction
        if found is not None:
            assert found.dtype == dtype
            np.testing.assert_allclose(np.atleast_2d(found), truth, atol=tolerance, err_msg=name)


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=8, **QUIET)
@given(systems())
def test_a_few_systems(system):
    compare(system)


@pytest.mark.slow
@settings(max_examples=200, **QUIET)
@given(systems())
def test_two_hundred_systems(system):
    compare(system)
