"""Re-orthonormalising seldom: the traced interval, the limit that precision sets, and the rule that follows it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import flossing as fl
from flossing._floss import default_optimiser
from flossing._interval import TOLERANCE, at_bearable_interval, largest_spread, next_interval, strained_flow
from flossing._lyapunov import tangent_flow
from flossing._train import TrainingState, start_training, train
from flossing.cells import VanillaRNN
from tests.helpers import tanh_network

KEY = jax.random.key(0)


def network_step(model, h, s):
    return model(s, h)


@eqx.filter_jit
def measured(network, inputs, state, basis, interval):
    """Loss gradient (flat), exponents and strain of one window at a traced interval."""

    def loss(network):
        flow = strained_flow(
            lambda h, s: network(s, h), state, inputs, basis, interval, length=len(inputs), transient=5
        )
        return fl.flossing_loss(flow.exponents), flow

    (_, flow), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(network)
    return jnp.concatenate([gradient.J.ravel(), gradient.ws.ravel(), gradient.b]), flow.exponents, flow.strain


def drawn(units, k, gain, recurrent, steps, seed, dtype):
    key = jax.random.key(seed)
    with jax.numpy_rank_promotion("allow"):  # jax.random.orthogonal needs it
        network = VanillaRNN(units, gain=gain, recurrent=recurrent, key=key)
    network = jax.tree_util.tree_map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, network)
    inputs = jax.random.bernoulli(key, shape=(steps, 1)).astype(dtype)
    state = jnp.tanh(jax.random.normal(key, (units,), dtype))
    return network, inputs, state, jnp.linalg.qr(jax.random.normal(key, (units, k), dtype))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=12, deadline=None)
@given(
    case=st.sampled_from([(8, 8), (8, 3), (20, 15), (40, 38)]),
    gain=st.floats(0.1, 3),
    recurrent=st.sampled_from(["gaussian", "orthogonal"]),
    seed=st.integers(0, 2**31),
)
def test_a_bearable_interval_keeps_the_gradient(dtype, case, gain, recurrent, seed):
    units, k = case
    network, inputs, state, basis = drawn(units, k, gain, recurrent, 40, seed, dtype)

    def attempt(interval):
        result = measured(network, inputs, state, basis, interval)
        return result, result[-1]

    exact, exponents, _ = measured(network, inputs, state, basis, jnp.asarray(1))
    (gradient, ours, _), interval = at_bearable_interval(attempt, jnp.asarray(32))
    assert 1 <= int(interval) <= 32
    if not np.isfinite(exponents).all() or float(exponents[0]) * 40 > 5:
        return  # the gradient itself is then at the mercy of rounding
    error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
    assert error < TOLERANCE[dtype]
    np.testing.assert_allclose(ours, exponents, rtol=0, atol=TOLERANCE[dtype])


def test_beyond_the_limit_the_gradient_is_lost():
    """The limit is not idle: at the reference start a longer block ruins the gradient in float32."""
    network, inputs, state, basis = drawn(80, 75, 1.0, "gaussian", 55, 1, "float32")
    exact, _, _ = measured(network, inputs, state, basis, jnp.asarray(1))
    gradient, _, strain = measured(network, inputs, state, basis, jnp.asarray(5))
    assert float(strain) > 1
    assert np.linalg.norm(gradient - exact) > 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("interval, transient", [(1, 0), (3, 0), (4, 7), (30, 5)])
def test_the_traced_interval_is_the_static_one(interval, transient):
    make, J = tanh_network(6, 1.2, KEY)
    inputs, basis = jax.random.normal(KEY, (23, 6)), jnp.eye(6)[:, :4]
    options = {"length": 23, "transient": transient}
    traced = strained_flow(make(J), jnp.zeros(6), inputs, basis, jnp.asarray(interval), **options)
    static = tangent_flow(make(J), jnp.zeros(6), inputs, basis, interval=interval, **options)
    np.testing.assert_allclose(traced.exponents, static.exponents, rtol=0, atol=1e-12)


def test_the_strain_is_the_largest_spread_over_the_limit():
    diagonal = jnp.asarray([0.9, 0.5, 0.1])
    flow = strained_flow(
        lambda h, _: diagonal * h, jnp.ones(3), None, jnp.eye(3), jnp.asarray(4), length=10, transient=0
    )
    spread = 4 * np.log(0.9 / 0.1)
    np.testing.assert_allclose(flow.strain, spread / largest_spread("float64"), rtol=1e-12)
    np.testing.assert_allclose(flow.exponents, np.log(diagonal), rtol=0, atol=1e-12)


def test_blocks_do_not_underflow_together():
    # One direction: no spread at all, but after 64 steps its length is below the smallest float32.
    flow = strained_flow(
        lambda h, _: jnp.float32(0.1) * h,
        jnp.ones(1, "float32"),
        None,
        jnp.ones((1, 1), "float32"),
        jnp.asarray(64),
        length=64,
        transient=0,
    )
    assert not float(flow.strain) <= 1


def test_the_rule():
    six = jnp.asarray(6)
    assert int(next_interval(six, jnp.asarray(0.4), 100)) == 12
    assert int(next_interval(six, jnp.asarray(0.46), 100)) == 6
    assert int(next_interval(six, jnp.asarray(0.1), 11)) == 6

    def measure(interval):
        return interval * 10, interval / 3.0

    result, used = at_bearable_interval(measure, jnp.asarray(8))
    assert (int(result), int(used)) == (20, 2)
    result, used = at_bearable_interval(lambda m: (m, jnp.where(m > 0, jnp.nan, 0.0)), jnp.asarray(8))
    assert (int(result), int(used)) == (1, 1)  # NaN is not bearable; a single step always counts


def test_tolerance_sets_the_limit():
    assert largest_spread("float64", 1e-6) == pytest.approx(largest_spread("float64", 1e-9) + np.log(1e3))
    assert largest_spread("float32", 1e-9) < 0  # not to be had in float32: every step


@pytest.mark.usefixtures("optax_promotion")
def test_flossing_follows_the_network():
    """As the exponents come together the interval grows, and the result is that of QR after every step."""
    network = VanillaRNN(20, key=KEY)

    def inputs(key):
        return jax.random.bernoulli(key, shape=(60, 1)).astype(float)

    options = {"state": jnp.zeros(20), "key": KEY, "k": 15, "epochs": 120, "step": network_step}
    auto, seldom = fl.floss(network, inputs, **options)
    every, always = fl.floss(network, inputs, interval=1, **options)
    assert seldom.interval[0] == 1 and seldom.interval[-1] >= 4 and (always.interval == 1).all()
    np.testing.assert_allclose(seldom.exponents[:20], always.exponents[:20], rtol=0, atol=1e-8)
    np.testing.assert_allclose(auto.J, every.J, rtol=0, atol=1e-4)
    # A later call goes on with the interval that was reached.
    _, more = fl.floss(auto, inputs, **(options | {"epochs": 1, "flossing_state": seldom.state}))
    assert more.interval[0] >= 4


@pytest.mark.usefixtures("optax_promotion")
def test_training_carries_the_interval():
    network = VanillaRNN(10, key=KEY)
    flossing = fl.Flossing(
        network, jnp.ones((40, 1)), state=jnp.zeros(10), key=KEY, k=4, step=network_step, optimiser=default_optimiser()
    )

    def loss(model, batch):
        return jnp.sum(jnp.square(model.J)), {}

    options = {
        "loss": loss,
        "batch": lambda key: None,
        "optimiser": default_optimiser(),
        "key": KEY,
        "epochs": 1,
        "flossing": flossing,
        "schedule": fl.floss_before(30),
        "chunk": 10,
    }
    states = [p.state for p in train(start_training(network, default_optimiser(), flossing), **options)]
    assert all(isinstance(state, TrainingState) for state in states)
    reached = [int(state.flossing_opt_state.interval) for state in states[:3]]
    assert reached[-1] > 1
    again = next(iter(train(dataclasses.replace(states[1], due=10), **options)))
    assert again.metrics["flossing_interval"][0] == reached[1]


@pytest.mark.usefixtures("optax_promotion")
def test_the_step_that_forgets_is_still_named():
    with pytest.raises(
        FloatingPointError, match=r"flossing epoch 1: exponents must be finite, got exponents\[2\]=-inf"
    ):
        fl.floss(
            VanillaRNN(4, key=KEY),
            jnp.zeros((30, 1)),
            state=jnp.zeros(4),
            key=KEY,
            epochs=1,
            step=lambda model, h, s: jnp.asarray([1.0, 1, 0, 0]) * (model.J @ h),
        )


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("interval, window", [("auto", 50), (3, 50), (1, 3), ("auto", 49)])
def test_rematerialising_changes_memory_alone(interval, window):
    network = VanillaRNN(12, key=KEY)
    inputs = jax.random.normal(KEY, (60, 1))
    updates, sizes = [], []
    for rematerialise in (False, True):
        flossing = fl.Flossing(
            network,
            inputs,
            state=jnp.zeros(12),
            key=KEY,
            k=8,
            window=window,
            interval=interval,
            rematerialise=rematerialise,
            step=network_step,
        )
        compiled = eqx.filter_jit(flossing.update).lower(network, flossing.init(network), KEY).compile()
        updates.append(compiled(network, flossing.init(network), KEY))
        sizes.append(compiled.compiled.memory_analysis().temp_size_in_bytes)
    (model, _, record), (other, _, theirs) = updates
    np.testing.assert_allclose(record.exponents, theirs.exponents, rtol=0, atol=1e-13)
    np.testing.assert_allclose(model.J, other.J, rtol=0, atol=1e-12)
    if window > 10:
        assert sizes[1] < 0.6 * sizes[0]


def test_what_does_not_fit_is_rematerialised(monkeypatch):
    def rematerialises():
        return fl.Flossing(
            VanillaRNN(4, key=KEY), jnp.zeros((30, 1)), state=jnp.zeros(4), key=KEY, step=network_step
        ).rematerialise

    assert not rematerialises()
    monkeypatch.setattr("flossing._segments._memory", lambda: 10_000.0)
    assert rematerialises()
