"""Adaptive reorthonormalisation interval: the limit set by precision, and the rule that tracks it during flossing."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings, strategies as st

import flossing as fl
from flossing._tangent.interval import (
    MULTIPLES,
    TOLERANCE,
    largest_spread,
    longer_interval,
    power_of_two,
    shorter_interval,
)
from flossing._tangent.spread import block_spread_ratio, step_spread_ratio
from flossing._training.train import init_training, train
from flossing.cells import VanillaRNN
from tests.helpers import flow_of

KEY = jax.random.key(0)


def network_step(model, h, s):
    return model(s, h)


def bits(key):
    return jax.random.bernoulli(key, shape=(60, 1)).astype(float)


@eqx.filter_jit
def measured(network, inputs, state, basis, interval):
    """Gradient of the loss (flat), exponents and ratios of one window."""

    def loss(network):
        spectrum = flow_of(
            lambda h, s: network(s, h), state, inputs, basis, length=len(inputs), transient=5, interval=interval
        )
        return fl.flossing_loss(spectrum.exponents), spectrum

    (_, spectrum), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(network)
    flat = jnp.concatenate([gradient.J.ravel(), gradient.ws.ravel(), gradient.b])
    return flat, spectrum.exponents, block_spread_ratio(spectrum.all_log_growth())


def drawn(units, k, gain, recurrent, steps, seed, dtype):
    key = jax.random.key(seed)
    with jax.numpy_rank_promotion("allow"):  # an orthogonal start needs it
        network = VanillaRNN(units, gain=gain, recurrent=recurrent, key=key)
    network = jax.tree_util.tree_map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, network)
    inputs = jax.random.bernoulli(key, shape=(steps, 1)).astype(dtype)
    state = jnp.tanh(jax.random.normal(key, (units,), dtype))
    return network, inputs, state, jnp.linalg.qr(jax.random.normal(key, (units, k), dtype))[0]


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@settings(max_examples=6, deadline=None, derandomize=True)  # errors have a tail: see ERROR_FACTOR
@given(
    case=st.sampled_from([(8, 8), (20, 15), (40, 38)]),
    gain=st.floats(0.1, 1.5),
    recurrent=st.sampled_from(["gaussian", "orthogonal"]),
    seed=st.integers(0, 2**31),
)
def test_the_chosen_interval_keeps_the_gradient(dtype, case, gain, recurrent, seed):
    units, k = case
    network, inputs, state, basis = drawn(units, k, gain, recurrent, 40, seed, dtype)
    exact, exponents, ratios = measured(network, inputs, state, basis, 1)
    interval = longer_interval(1, np.asarray(ratios)[None], 40)
    # In chaos, and where a direction is lost, the gradient itself is at the mercy of rounding.
    assume(np.isfinite(exponents).all() and float(exponents[0]) * 40 <= 5)
    gradient, ours, ratio = measured(network, inputs, state, basis, interval)
    assert interval == 1 or ratio[0] <= 1
    # In float32 the gradient with QR after every step may itself be the one that is further off.
    wider = jax.tree_util.tree_map(lambda x: x.astype(float), (network, inputs, state, basis))
    references = np.asarray(exact), np.asarray(measured(*wider, 1)[0])
    distance = min(np.linalg.norm(np.asarray(gradient) - reference) for reference in references)
    assert distance < TOLERANCE[dtype] * np.linalg.norm(exact)
    np.testing.assert_allclose(ours, exponents, rtol=0, atol=TOLERANCE[dtype])


def test_beyond_the_limit_the_gradient_is_lost():
    """The limit matters: at the reference start, longer blocks ruin the float32 gradient."""
    network, inputs, state, basis = drawn(80, 75, 1.0, "gaussian", 55, 1, "float32")
    exact, _, ratios = measured(network, inputs, state, basis, 1)
    gradient, _, ratio = measured(network, inputs, state, basis, 5)
    assert float(ratio[0]) > 1
    assert float(ratios[MULTIPLES.index(4)]) > 1
    assert np.linalg.norm(gradient - exact) > 0.02 * np.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_one_program_for_all_intervals():
    """An interval passed as data gives the engine's exponents, gradient and ratios at that interval."""
    network, inputs, state, basis = drawn(10, 8, 1.0, "orthogonal", 50, 1, "float64")
    options = {"state": state, "basis": basis, "window": 47, "transient": 14, "step": network_step}
    flossing = fl.Flossing(network, inputs, **options)
    adjoint, state = eqx.filter_jit(flossing.update), flossing.init(network)
    for interval in (1, 5, 16, 64):
        found = adjoint(network, dataclasses.replace(state, interval=jnp.asarray(interval, jnp.int32)), KEY)[2]
        engine = fl.Flossing(network, inputs, interval=interval, **options)  # its loss is differentiated by JAX
        exponents, ratios = engine._measure(network, KEY, interval)
        np.testing.assert_allclose(found.exponents, exponents, rtol=0, atol=1e-12)
        gradient = optax.tree.norm(eqx.filter_grad(engine.loss)(network, KEY))
        np.testing.assert_allclose(found.gradient_norm, gradient, rtol=1e-9)
        assert int(found.interval) == min(interval, 47)
        np.testing.assert_allclose(found.spread_ratio[0], ratios[0], rtol=1e-9)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("rematerialise", [False, True])
def test_one_program_serves_all_intervals(rematerialise):
    network = VanillaRNN(15, key=KEY)

    def traces(epochs):
        seen = []

        def step(model, h, s):
            seen.append(h)
            return network_step(model, h, s)

        options = {"k": 5, "step": step, "chunk": 10, "epochs": epochs, "rematerialise": rematerialise}
        _, history = fl.floss(network, bits, state=jnp.zeros(15), key=KEY, **options)
        return len(seen), len(set(history.interval.tolist()))

    (first, _), (later, intervals) = traces(10), traces(40)
    assert later == first
    assert intervals > 1


def blocks_of(growth, transient, interval):
    """Growth of each block, blocks ending at `transient` and at the end."""
    ends = np.append(np.arange(transient % interval or interval, len(growth), interval), len(growth))
    return np.diff(np.cumsum(growth, axis=0)[ends - 1], axis=0, prepend=0), ends


def test_spread_ratios_along_steps_are_those_of_blocks():
    growth = np.random.default_rng(0).normal(size=(47, 3))
    for transient, interval in ((0, 1), (14, 4), (5, 7), (14, 40)):
        blocks, ends = blocks_of(growth, transient, interval)
        known = np.zeros_like(growth)
        known[ends - 1] = blocks  # the growth of a block is known where it ends
        found = jax.jit(step_spread_ratio, static_argnames="transient")(
            jnp.asarray(known), transient=transient, interval=jnp.asarray(interval)
        )
        for factor, ratio in zip(MULTIPLES, found, strict=True):
            joined, _ = blocks_of(growth, transient, factor * interval)
            spread = np.log(np.exp(np.ptp(joined, axis=1)).mean()) / largest_spread("float64")
            assert ratio == pytest.approx(spread, rel=1e-9)


def test_spread_ratios_are_spreads_over_the_limit():
    diagonal = jnp.asarray([0.9, 0.5, 0.1])
    spectrum = flow_of(lambda h, _: diagonal * h, jnp.ones(3), None, jnp.eye(3), length=40, transient=10, interval=1)
    rate = np.log(0.9 / 0.1)
    expected = [np.log(np.exp(rate * lengths(40, factor)).mean()) / largest_spread("float64") for factor in MULTIPLES]
    np.testing.assert_allclose(jax.jit(block_spread_ratio)(spectrum.all_log_growth()), expected, rtol=1e-12)
    assert expected[0] == pytest.approx(rate / largest_spread("float64"))
    assert spectrum.transient_log_growth.shape == (10, 3)
    # At a longer interval the same holds for its multiples.
    longer = flow_of(lambda h, _: diagonal * h, jnp.ones(3), None, jnp.eye(3), length=40, transient=0, interval=4)
    expected = [
        np.log(np.exp(4 * rate * lengths(10, factor)).mean()) / largest_spread("float64") for factor in MULTIPLES
    ]
    np.testing.assert_allclose(jax.jit(block_spread_ratio)(longer.all_log_growth()), expected, rtol=1e-12)


def lengths(rows, factor):
    """Rows in each block; the last may be shorter."""
    return np.diff(np.append(np.arange(0, rows, factor), rows))


def test_blocks_do_not_underflow_together():
    # One direction: no spread at all, but after 32 steps its length is near the smallest float32.
    spectrum = flow_of(
        lambda h, _: jnp.float32(0.1) * h,
        jnp.ones(1, "float32"),
        None,
        jnp.ones((1, 1), "float32"),
        length=64,
    )
    ratios = jax.jit(block_spread_ratio)(spectrum.all_log_growth())
    assert ratios[0] < 1 < ratios[-1]


def test_a_lost_direction_is_an_infinite_spread():
    spectrum = flow_of(lambda h, _: jnp.asarray([1.0, 0.0]) * h, jnp.ones(2), None, jnp.eye(2), length=8)
    assert np.isinf(jax.jit(block_spread_ratio)(spectrum.all_log_growth())).all()


def test_the_rule():
    calm = np.asarray([[0.1, 0.2, 0.4, 0.75, 0.9, 2.0]] * 20)
    assert longer_interval(1, calm, 100) == 8  # 0.75 at 8 steps: 9 steps might be 0.84
    assert longer_interval(2, calm, 100) == 17  # 0.75 * 17 / 16 = 0.797
    assert longer_interval(2, calm, 10) == 10
    assert longer_interval(9, calm, 12) == 9  # (1 + 3/12) / (1 + 3/9) = 0.94 is not worth a risk,
    assert longer_interval(9, calm, 15) == 15  # 0.9 is
    calm[:, 3] = 0.5
    assert longer_interval(1, calm, 100) == 12  # 0.5 * 12 / 8 = 0.75
    calm[:, 3] = 0.1
    assert longer_interval(1, calm, 100) == 15  # 16 was seen to be too much
    calm[:, 3] = 0.75
    assert shorter_interval(4, calm) == 4
    wild = calm.copy()
    wild[0, 0] = 3.1  # one epoch is enough to run all again, and does not count for what comes later
    assert shorter_interval(16, wild) == 4  # 0.8 * 16 / 3.1 = 4.1
    assert shorter_interval(1, wild) == 1
    assert longer_interval(1, wild, 100) == 8
    assert [power_of_two(interval) for interval in (1, 2, 3, 8, 15)] == [1, 2, 2, 8, 8]
    wild[-1] = np.inf
    assert shorter_interval(16, wild) == 1
    assert longer_interval(4, wild, 100) == 4


def test_tolerance_sets_the_limit():
    assert largest_spread("float64", 1e-6) == pytest.approx(largest_spread("float64", 1e-9) + np.log(1e3))
    assert largest_spread("float32", 1e-9) < 0  # not to be had in float32: every step


@pytest.mark.usefixtures("optax_promotion")
def test_flossing_follows_the_network():
    """As exponents approach each other the interval grows, and the result equals that of QR after every step."""
    network = VanillaRNN(20, key=KEY)
    options = {"state": jnp.zeros(20), "key": KEY, "k": 15, "step": network_step, "chunk": 30}
    auto, adapted = fl.floss(network, bits, epochs=90, **options)
    every, always = fl.floss(network, bits, epochs=90, interval=1, **options)
    assert adapted.interval[0] == 1
    assert adapted.interval[-1] >= 4
    assert (always.interval == 1).all()
    np.testing.assert_allclose(adapted.exponents[:50], always.exponents[:50], rtol=0, atol=1e-8)
    np.testing.assert_allclose(auto.J, every.J, rtol=0, atol=1e-4)
    # A later call continues at the interval reached.
    _, more = fl.floss(auto, bits, epochs=1, flossing_state=adapted.state, **options)
    assert more.interval[0] >= 4


@pytest.mark.usefixtures("optax_promotion")
def test_a_chunk_with_too_long_an_interval_is_run_again():
    """An interval that is too long leaves no trace: the epochs are those at an admissible interval."""
    network = VanillaRNN(20, key=KEY)
    options = {"state": jnp.zeros(20), "key": KEY, "k": 18, "step": network_step, "chunk": 5, "epochs": 5}
    flossed, _ = fl.floss(network, bits, interval=1, **options)
    flossing = fl.Flossing(network, bits, state=jnp.zeros(20), key=KEY, k=18, step=network_step)
    hasty = dataclasses.replace(flossing.init(network), interval=jnp.asarray(16, jnp.int32))
    again, careful = fl.floss(network, bits, flossing_state=hasty, **options)
    assert (careful.interval < 16).all()
    np.testing.assert_allclose(again.J, flossed.J, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("optax_promotion")
def test_training_carries_the_interval():
    network = VanillaRNN(10, key=KEY)
    flossing = fl.Flossing(network, jnp.ones((40, 1)), state=jnp.zeros(10), key=KEY, k=4, step=network_step)
    options = {
        "loss": lambda model, batch: (jnp.sum(jnp.square(model.J)), {}),
        "batch": lambda key: None,
        "optimiser": optax.adam(1e-3),
        "key": KEY,
        "epochs": 1,
        "flossing": flossing,
        "schedule": fl.schedules.preflossing(30),
        "chunk": 10,
    }
    start = init_training(network, optax.adam(1e-3), flossing)
    states = [progress.state for progress in train(start, **options)]
    reached = [state.flossing.interval for state in states]
    assert reached[0] > 1
    again = next(iter(train(states[0], **options)))
    assert (again.metrics["flossing_interval"] == reached[0]).all()


@pytest.mark.usefixtures("optax_promotion")
def test_the_step_that_forgets_is_still_named():
    message = r"flossing epoch 1: exponents must be finite, got exponents\[2\]=-inf"
    with pytest.raises(FloatingPointError, match=message):
        fl.floss(
            VanillaRNN(4, key=KEY),
            jnp.zeros((30, 1)),
            state=jnp.zeros(4),
            key=KEY,
            epochs=1,
            step=lambda model, h, s: jnp.asarray([1.0, 1, 0, 0]) * (model.J @ h),
        )


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize(("window", "intervals"), [(50, (1, 3, 9)), (3, (1,))])
def test_rematerialising_changes_memory_alone(window, intervals):
    network = VanillaRNN(12, key=KEY, recurrent="orthogonal", input_scale=0.3)
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
            rematerialise=rematerialise,
            loss=fl.losses.exponents,
            step=network_step,
        )
        start = flossing.init(network)
        compiled = eqx.filter_jit(flossing.update).lower(network, start, KEY).compile()
        states = [dataclasses.replace(start, interval=jnp.asarray(interval, jnp.int32)) for interval in intervals]
        updates.append([compiled(network, state, KEY) for state in states])
        sizes.append(compiled.compiled.memory_analysis().temp_size_in_bytes)
    for (model, _, record), (other, _, theirs) in zip(*updates, strict=True):
        np.testing.assert_allclose(record.exponents, theirs.exponents, rtol=0, atol=1e-12)
        np.testing.assert_allclose(model.J, other.J, rtol=0, atol=1e-12)
    if window > 10:
        assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.usefixtures("optax_promotion")
def test_adapt_in_a_loop_of_ones_own():
    """It lengthens an interval that the network allows, shortens one beyond the tolerance, and leaves a fixed one."""
    network = VanillaRNN(12, key=KEY, recurrent="orthogonal", input_scale=0.3)
    options = {"state": jnp.zeros(12), "key": KEY, "k": 8, "loss": fl.losses.exponents, "step": network_step}
    flossing = fl.Flossing(network, jax.random.normal(KEY, (50, 1)), **options)
    state = flossing.init(network)
    _, state, record = eqx.filter_jit(flossing.update)(network, state, KEY)
    longer = flossing.adapt(state, record)
    assert int(longer.interval) > int(state.interval) == 1
    beyond = record._replace(spread_ratio=jnp.full_like(record.spread_ratio, 5.0), interval=longer.interval)
    assert int(flossing.adapt(longer, beyond).interval) < int(longer.interval)
    with pytest.raises(ValueError, match="adapt must be called outside jit, where values are concrete"):
        eqx.filter_jit(flossing.adapt)(state, record)
    fixed = fl.Flossing(network, jnp.zeros((50, 1)), interval=3, **options)
    assert fixed.adapt(state, beyond) is state


@pytest.mark.usefixtures("optax_promotion")
def test_a_looser_tolerance_allows_longer_intervals():
    network = VanillaRNN(12, key=KEY, recurrent="orthogonal", input_scale=0.3)
    inputs, chosen = jax.random.normal(KEY, (50, 1)), []
    for tolerance in (1e-12, 1e-3):
        history = fl.floss(network, inputs, k=8, epochs=12, tolerance=tolerance, report=False)[1]
        chosen.append(history.interval[-1])
    assert chosen[0] < chosen[1]


def test_what_does_not_fit_is_rematerialised(monkeypatch):
    def rematerialises():
        return fl.Flossing(
            VanillaRNN(4, key=KEY), jnp.zeros((30, 1)), state=jnp.zeros(4), key=KEY, step=network_step
        ).rematerialise

    assert not rematerialises()
    monkeypatch.setattr("flossing._runtime.memory._memory", lambda: 10_000.0)
    assert rematerialises()


def test_a_spectrum_at_the_longest_interval():
    """Fewer decompositions, same exponents; the interval suggested by the first steps is shortened if necessary."""
    network = VanillaRNN(20, key=KEY, recurrent="orthogonal", input_scale=0.3)
    inputs = jax.random.normal(KEY, (300, 1))
    options = {"k": 10, "key": KEY, "transient": 30}
    every = fl.lyapunov_spectrum(lambda h, s: network(s, h), inputs, state=jnp.zeros(20), **options)
    adapted = fl.lyapunov_spectrum(lambda h, s: network(s, h), inputs, state=jnp.zeros(20), interval="auto", **options)
    assert adapted.interval >= 4
    assert len(adapted.log_growth) == -(-270 // adapted.interval)
    np.testing.assert_allclose(adapted.exponents, every.exponents, rtol=0, atol=1e-9)

    # Two directions that grow alike for 100 steps, then 10 nats apart in each step.
    rates = jnp.where(jnp.arange(200)[:, None] < 100, jnp.asarray([[0.0, 0.0]]), jnp.asarray([[0.0, -10.0]]))
    spread = fl.lyapunov_spectrum(
        lambda h, s: jnp.exp(s) * h, rates, state=jnp.ones(2), basis=jnp.eye(2), interval="auto"
    )
    assert spread.interval == 1
    np.testing.assert_allclose(spread.exponents, [0, -5], rtol=0, atol=1e-9)


def test_auto_cannot_look_into_jit():
    with pytest.raises(ValueError, match="interval must be an integer where values are traced"):
        jax.jit(
            lambda h: (
                fl.lyapunov_spectrum(lambda h, s: h / 2, None, state=h, steps=9, interval="auto", transient=0).exponents
            )
        )(jnp.ones(1))
