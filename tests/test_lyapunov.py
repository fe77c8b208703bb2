"""The tangent flow against exact results from independent sources."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings, strategies as st

import flossing as fl
from flossing._runtime import compiled
from flossing.cells import VanillaRNN
from tests.helpers import dense_jacobians, tanh_network

KEY = jax.random.key(1)
EXACT = {"rtol": 0, "atol": 1e-9}


def linear(matrix):
    return lambda h, s: matrix @ h


def run(step, units=None, steps=200, **options):
    return fl.lyapunov_spectrum(step, None, state=jnp.zeros(units), steps=steps, **options)


def test_constant_diagonal():
    diagonal = np.array([2.0, 0.9, 0.5, 1e-3])
    spectrum = run(linear(jnp.diag(diagonal)), 4, basis=np.eye(4))
    np.testing.assert_allclose(spectrum.exponents, np.log(diagonal), **EXACT)


def test_constant_triangular():
    matrix = np.triu(np.random.default_rng(0).normal(size=(5, 5)))
    np.fill_diagonal(matrix, [3.0, -2.0, 1.0, -0.5, 0.1])
    spectrum = run(linear(jnp.asarray(matrix)), 5, basis=np.eye(5))
    np.testing.assert_allclose(spectrum.exponents, np.log(np.abs(np.diag(matrix))), **EXACT)


def test_orthogonal_step_has_zero_exponents():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    np.testing.assert_allclose(run(linear(jnp.asarray(q)), 6, key=KEY).exponents, 0, **EXACT)


def test_linear_step_gives_log_moduli_of_eigenvalues():
    matrix = np.random.default_rng(3).normal(size=(6, 6))
    moduli = np.sort(np.log(np.abs(np.linalg.eigvals(matrix))))[::-1]
    spectrum = run(linear(jnp.asarray(matrix)), 6, steps=20_000, transient=10_000, key=KEY)
    # A complex pair rotates its plane, so the two averages converge like 1/T.
    np.testing.assert_allclose(spectrum.exponents, moduli, atol=1e-3)


@pytest.mark.parametrize("interval", [1, 3])
def test_sum_rule(interval):
    """All exponents together: T x sum of lambda_i = sum over t of log|det D_t|, on any finite run."""
    make, J = tanh_network(7, 1.5, KEY)
    inputs = jax.random.normal(jax.random.key(2), (50, 7))
    state = jnp.zeros(7)
    jacobians = dense_jacobians(make(J), state, inputs)
    spectrum = fl.lyapunov_spectrum(make(J), inputs, state=state, interval=interval, transient=0)
    np.testing.assert_allclose(50 * spectrum.exponents.sum(), np.linalg.slogdet(jacobians)[1].sum(), **EXACT)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_first_k_of_the_full_spectrum(k):
    make, J = tanh_network(8, 1.5, KEY)
    inputs = jax.random.normal(jax.random.key(2), (60, 8))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    full = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(8), basis=basis, transient=7)
    part = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(8), basis=basis[:, :k], transient=7)
    np.testing.assert_allclose(part.log_growth, full.log_growth[:, :k], **EXACT)
    np.testing.assert_allclose(part.basis, full.basis[:, :k], **EXACT)


@settings(max_examples=8, deadline=None)
@given(
    steps=st.integers(2, 40),
    transient=st.integers(0, 39),
    interval=st.integers(1, 12),
    gain=st.floats(0.5, 2.0),
    seed=st.integers(0, 2**31),
)
@example(steps=10, transient=9, interval=8, gain=2.0, seed=2**31)  # a transient that is one long block
def test_interval_only_sums(steps, transient, interval, gain, seed):
    transient = min(transient, steps - 1)
    make, J = tanh_network(4, gain, jax.random.key(seed))
    inputs = jax.random.normal(jax.random.key(seed + 1), (steps, 4)) * 0.1
    options = {"k": 2, "key": KEY, "transient": transient}
    every = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(4), **options)
    block = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(4), interval=interval, **options)
    starts = range(0, steps - transient, interval)
    summed = np.stack([every.log_growth[start : start + interval].sum(0) for start in starts])
    # Between two QRs the columns lean towards the first direction: what is lost is the ratio of their growth, over the
    # blocks of the transient as well.
    lean = np.subtract(*np.asarray(every.all_log_growth()).T)
    spread = max(lean[start : start + interval].sum() for start in range(steps))
    assume(spread < 25)
    tolerance = {"rtol": 0, "atol": 1e-12 * np.exp(max(spread, 0))}
    np.testing.assert_allclose(block.log_growth, summed, **tolerance)
    np.testing.assert_allclose(block.exponents, every.exponents, **tolerance)
    np.testing.assert_allclose(block.state, every.state, **EXACT)


def test_a_run_can_be_continued():
    make, J = tanh_network(5, 1.2, KEY)
    inputs = jax.random.normal(jax.random.key(2), (40, 5))
    whole = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(5), key=KEY, transient=0)
    first = fl.lyapunov_spectrum(make(J), inputs[:15], state=jnp.zeros(5), key=KEY, transient=0)
    second = fl.lyapunov_spectrum(make(J), inputs[15:], state=first.state, basis=first.basis)
    np.testing.assert_allclose(np.concatenate([first.log_growth, second.log_growth]), whole.log_growth, **EXACT)


def test_henon():
    """Sum log 0.3, exact; lambda_1 = 0.419217 (Sprott); dense Jacobians are never formed."""

    def henon(h, _):
        return jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])

    spectrum = fl.lyapunov_spectrum(henon, None, state=jnp.array([0.1, 0.1]), steps=200_000, transient=1000, key=KEY)
    np.testing.assert_allclose(spectrum.exponents.sum(), np.log(0.3), **EXACT)
    np.testing.assert_allclose(spectrum.exponents[0], 0.419217, atol=5e-3)


def test_tangents_by_jvp_equal_dense_jacobians_in_plain_numpy():
    make, J = tanh_network(16, 1.0, KEY)
    inputs = jax.random.normal(jax.random.key(2), (200, 16))
    jacobians = dense_jacobians(make(J), jnp.zeros(16), inputs)
    q, total = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0], 0.0
    basis = q
    for jacobian in np.asarray(jacobians):
        q, r = np.linalg.qr(jacobian @ q)
        total = total + np.log(np.abs(np.diag(r)))
    ours = fl.lyapunov_spectrum(make(J), inputs, state=jnp.zeros(16), basis=basis)
    np.testing.assert_allclose(ours.exponents, total / 200, **EXACT)


def test_a_module_as_step_is_compiled_once_and_sees_new_parameters():
    class Step(eqx.Module):
        network: VanillaRNN

        def __call__(self, s, h):
            return self.network(s, h)

    inputs = jnp.ones((20, 1))
    networks = [VanillaRNN(5, key=jax.random.key(seed)) for seed in range(3)]
    cached = []

    def measure(network):
        cached.append(fl.lyapunov_spectrum(Step(network), inputs, state=jnp.zeros(5), transient=0).exponents)

    measure(networks[0])
    assert count_programs(lambda: [measure(network) for network in networks[1:]]) == 0
    for network, exponents in zip(networks, cached, strict=True):
        plain = fl.lyapunov_spectrum(lambda h, s, n=network: n(s, h), inputs, state=jnp.zeros(5), transient=0)
        np.testing.assert_allclose(exponents, plain.exponents, **EXACT)


def count_programs(measure):
    """The number of programs that a call compiles."""
    programs = []

    def listen(event, duration, **_):
        programs.append(event) if event.endswith("jaxpr_to_mlir_module_duration") else None

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        measure()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(programs)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, fl.cells.spike])
def test_a_second_call_with_other_weights_compiles_nothing(activation):
    """New weights, in a new closure or in a model, reuse the compiled program; also with a custom derivative."""
    inputs, start = jnp.ones((9, 7)), 0.1 * jnp.ones(7)

    def measure(W):
        act = (lambda x: activation(x, 1.0)) if activation is fl.cells.spike else activation
        return fl.lyapunov_spectrum(lambda h, s: act(W @ h + s), inputs, state=start, k=2).exponents

    first, second = 0.5 * jnp.eye(7), 0.4 * jnp.eye(7) + 0.1
    wanted = measure(second)  # and whatever else the call needs is compiled
    jax.clear_caches()
    compiled._program.cache_clear()
    assert count_programs(lambda: measure(first)) >= 1
    found = []
    assert count_programs(lambda: found.append(measure(second))) == 0
    np.testing.assert_allclose(found[0], wanted, rtol=1e-12)


def test_steps_that_differ_in_a_derivative_alone_are_not_taken_for_one_another():
    """Two surrogates of the same step function, each with its own slope."""

    def surrogate(slope):
        @jax.custom_jvp
        def f(x):
            return x * 1.0

        f.defjvp(lambda primals, tangents: (f(*primals), slope * tangents[0]))
        return f

    for slope in (0.5, 0.25, 0.5):
        f = surrogate(slope)
        exponent = fl.lyapunov_spectrum(lambda h, s, f=f: f(h), None, state=jnp.ones(1), steps=4).exponents[0]
        assert float(exponent) == pytest.approx(np.log(slope))


def test_a_measurement_of_a_plain_function_is_one_program():
    """And another for the basis; operation by operation there would be some twenty."""
    W, start, inputs = 0.5 * jnp.eye(7), jnp.zeros(7), jnp.ones((9, 7))
    step, options = (lambda h, s: jnp.tanh(W @ h + s)), {"state": start, "k": 3, "key": KEY, "transient": 0}
    assert 1 <= count_programs(lambda: fl.lyapunov_spectrum(step, inputs, **options)) <= 2


def test_a_function_whose_array_was_rebound_is_not_stale():
    gain = jnp.array(0.5)

    def step(h, s):
        return gain * h

    assert float(run(step, 2).exponents[0]) == pytest.approx(np.log(0.5))
    gain = jnp.array(2.0)
    assert float(run(step, 2).exponents[0]) == pytest.approx(np.log(2.0))


def test_vmap_over_sequences():
    make, J = tanh_network(4, 1.0, KEY)
    inputs = jax.random.normal(KEY, (3, 30, 4))
    many = jax.vmap(lambda s: fl.lyapunov_spectrum(make(J), s, state=jnp.zeros(4), transient=0).exponents)(inputs)
    for sequence, exponents in zip(inputs, many, strict=True):
        one = fl.lyapunov_spectrum(make(J), sequence, state=jnp.zeros(4), transient=0).exponents
        np.testing.assert_allclose(exponents, one, **EXACT)


class Hidden(eqx.Module):
    function: Callable = eqx.field(static=True)

    def __call__(self, s, h):
        return self.function(h)


def test_a_module_may_hide_a_function_that_closes_over_arrays():
    arrays = {"w": jnp.array(0.5)}
    step = Hidden(lambda h: arrays["w"] * h)
    for w in (0.5, 0.25):
        arrays["w"] = jnp.array(w)
        exponent = fl.lyapunov_spectrum(step, None, state=jnp.ones(1), steps=4, transient=0).exponents[0]
        assert float(exponent) == pytest.approx(np.log(w))


class HiddenFlow(eqx.Module):
    step: Callable = eqx.field(static=True)

    def __call__(self, s, h):
        return self.step(h, s)


def test_a_module_may_hide_a_flow_whose_field_closes_over_arrays():
    arrays = {"w": jnp.array(0.5)}
    flow = HiddenFlow(fl.flows.rk4(lambda h, s: arrays["w"] * h, 0.01))
    for w in (0.5, 0.25):
        arrays["w"] = jnp.array(w)
        exponent = fl.lyapunov_spectrum(flow, None, state=jnp.ones(1), steps=4, time_step=0.01, transient=0).exponents[
            0
        ]
        assert float(exponent) == pytest.approx(w)
