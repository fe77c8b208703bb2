"""The long-term Jacobian against ball arithmetic and exact results.

The reference (`exact_log_singular_values`) multiplies the same float64 Jacobians out in Arb and proves its error.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing._linalg.graded import Graded, log_singular_values
from flossing._spectra.jacobian import long_term_jacobian, long_term_jvp, long_term_vjp
from flossing.cells import VanillaRNN
from flossing_lab.paper.calculations.ball_arithmetic import exact_log_singular_values
from tests.helpers import dense_jacobians, tanh_network

KEY = jax.random.key(1)
EXACT = {"rtol": 0, "atol": 1e-9}


def linear(h, d):
    return d @ h


def constant(matrix, steps):
    return jnp.broadcast_to(jnp.asarray(matrix), (steps, *np.shape(matrix)))


def small(units=6, steps=40):
    make, J = tanh_network(units, 1.5, KEY)
    return make(J), jnp.zeros(units), jax.random.normal(jax.random.key(2), (steps, units))


FLOSSING = {
    # As in the reference; and with steps so large that units saturate and single Jacobians have condition 1e10.
    "gently": lambda units: {"k": 15 * units // 16, "epochs": 500, "window": 55},
    "roughly": lambda units: {"k": units // 2, "epochs": 200, "optimiser": optax.adam(1e-2)},
}


def reference_case(units, steps, flossed):
    """Jacobians (T, N, N) of the reference network driven by random bits, its step, first state and inputs."""
    network = VanillaRNN(units, key=jax.random.key(0))
    if flossed:
        network, _ = fl.floss(
            network,
            lambda key: jax.random.bernoulli(key, shape=(100, 1)).astype(float),
            state=jnp.zeros(units),
            key=jax.random.key(3),
            **FLOSSING[flossed](units),
        )
    inputs = jax.random.bernoulli(jax.random.key(1), shape=(steps, 1)).astype(float)

    def step(h, s):
        return network(s, h)

    return step, jnp.zeros(units), inputs


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize(
    ("units", "horizons", "flossed"),
    [
        (20, (1, 5, 50, 200, 500), None),
        (20, (1, 5, 50, 200, 500), "roughly"),
        pytest.param(80, (40,), None, marks=pytest.mark.slow),
        pytest.param(80, (100, 250, 500), None, marks=pytest.mark.slow),
        pytest.param(80, (100, 250, 500), "gently", marks=pytest.mark.slow),
        pytest.param(80, (5, 20, 50, 100), "roughly", marks=pytest.mark.slow),
    ],
)
def test_singular_values_are_proven_right(units, horizons, flossed):
    pytest.importorskip("flint")
    step, state, inputs = reference_case(units, max(horizons), flossed)
    jacobians = dense_jacobians(step, state, inputs)
    # The network itself, and the linear system whose Jacobians are those of the reference to the last bit.
    ours = long_term_jacobian(step, inputs, state=state, horizons=horizons)
    same = long_term_jacobian(linear, jacobians, state=state, horizons=horizons)
    for index, horizon in enumerate(horizons):
        exact = exact_log_singular_values(np.asarray(jacobians[:horizon]), float(ours.log_condition()[index]))
        worst = [float(np.abs(x.log_singular_values[index] - exact).max()) for x in (same, ours)]
        print(f"N={units} flossed={flossed} t={horizon}, worst {worst}")
        assert max(worst) < 1e-8
    if (units, max(horizons), flossed) == (80, 500, None):
        assert ours.log_condition()[-1] > 1000 * math.log(10)


def test_constant_diagonal_far_below_underflow():
    diagonal = np.array([2.0, 0.9, 0.5, 0.1])
    horizons = [1, 10, 4000]
    ours = long_term_jacobian(linear, constant(np.diag(diagonal), 4000), state=jnp.zeros(4), horizons=horizons)
    exact = np.array(horizons)[:, None] * np.log(diagonal)
    np.testing.assert_allclose(ours.log_singular_values, exact, **EXACT)
    np.testing.assert_allclose(ours.log_condition(), exact[:, 0] - exact[:, 3], **EXACT)
    np.testing.assert_allclose(ours.log_condition(2), exact[:, 0] - exact[:, 1], **EXACT)
    np.testing.assert_allclose(ours.predicted_log_condition(np.log(diagonal), 2), ours.log_condition(2), **EXACT)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_multiples_of_orthogonal_matrices(scale):
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    ours = long_term_jacobian(linear, constant(scale * q, 200), state=jnp.zeros(5), horizons=[1, 200])
    exact = np.array([1, 200])[:, None] * np.log(scale)
    np.testing.assert_allclose(ours.log_singular_values, np.broadcast_to(exact, (2, 5)), **EXACT)


@pytest.mark.parametrize("units", [1, 2, 3, 8])
def test_short_horizons_multiplied_out(units):
    step, state, inputs = small(units, 4)
    ours = long_term_jacobian(step, inputs, state=state)
    np.testing.assert_array_equal(ours.horizons, [1, 2, 3, 4])
    product = np.eye(units)
    for jacobian, logs in zip(np.asarray(dense_jacobians(step, state, inputs)), ours.log_singular_values, strict=True):
        product = jacobian @ product
        np.testing.assert_allclose(logs, np.log(np.linalg.svd(product, compute_uv=False)), rtol=0, atol=1e-8)


def test_sum_is_that_of_the_log_determinants_and_the_key_does_not_matter():
    step, state, inputs = small(7, 300)
    ours = long_term_jacobian(step, inputs, state=state, key=KEY).log_singular_values
    determinants = np.linalg.slogdet(dense_jacobians(step, state, inputs))[1]
    np.testing.assert_allclose(ours.sum(1), np.cumsum(determinants), **EXACT)
    np.testing.assert_allclose(ours, long_term_jacobian(step, inputs, state=state).log_singular_values, **EXACT)
    assert (np.diff(ours, axis=1) <= 0).all()


def test_a_horizon_is_a_run_of_that_length():
    step, state, inputs = small()
    some = long_term_jacobian(step, inputs, state=state, horizons=np.array([3, 17]))
    for t, logs in zip((3, 17), some.log_singular_values, strict=True):
        alone = long_term_jacobian(step, inputs[:t], state=state, horizons=[t])
        np.testing.assert_allclose(alone.log_singular_values[0], logs, **EXACT)


def test_growth_per_step_tends_to_the_exponents():
    step, state, inputs = small(5, 4000)
    exponents = fl.lyapunov_spectrum(step, inputs, state=state, transient=0).exponents
    ours = long_term_jacobian(step, inputs, state=state, horizons=[4000])
    np.testing.assert_allclose(ours.log_singular_values[0] / 4000, exponents, rtol=0, atol=2e-3)
    np.testing.assert_allclose(ours.predicted_log_condition(exponents, 5), ours.log_condition(), rtol=3e-3)


def test_pytrees_autonomous_systems_jit_and_vmap():
    def step(state, _):
        return {"a": 0.5 * state["a"], "b": jnp.tanh(state["b"]) * 3, "count": state["count"] + 1}

    def measure(scale):
        state = {"a": jnp.ones(2) * scale, "b": jnp.zeros(1), "count": jnp.array(0)}
        return long_term_jacobian(step, None, state=state, steps=9, horizons=range(1, 10, 4)).log_singular_values

    exact = np.array([1, 5, 9])[:, None] * np.log([3, 0.5, 0.5])
    np.testing.assert_allclose(measure(1.0), exact, **EXACT)
    np.testing.assert_allclose(jax.jit(jax.vmap(measure))(jnp.ones(2)), np.stack([exact, exact]), **EXACT)


@pytest.mark.parametrize("rank", [0, 1, 3, 4])
def test_a_singular_step_loses_its_directions_and_no_others(rank):
    rng = np.random.default_rng(rank)
    u, v = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    steps = rng.normal(size=(3, 5, 5))
    steps[1] = u[:, :rank] @ v[:rank]
    ours = long_term_jacobian(linear, jnp.asarray(steps), state=jnp.zeros(5)).log_singular_values
    assert np.isfinite(ours[0]).all()
    for logs, product in zip(ours[1:], (steps[1] @ steps[0], steps[2] @ steps[1] @ steps[0]), strict=True):
        exact = np.log(np.linalg.svd(product, compute_uv=False)[:rank])
        np.testing.assert_allclose(logs[:rank], exact, rtol=0, atol=1e-8)
        assert np.isneginf(logs[rank:]).all()


def test_a_direction_lost_in_the_middle():
    """Q has nearly converged to the axes when the second direction is lost."""
    steps = [np.diag([1.0, 0.5, 0.2])] * 8 + [np.diag([1.0, 0.0, 1.0])]
    ours = long_term_jacobian(linear, jnp.asarray(np.stack(steps)), state=jnp.zeros(3), horizons=[8, 9])
    np.testing.assert_allclose(ours.log_singular_values[1, :2], [0, 8 * np.log(0.2)], **EXACT)
    assert np.isneginf(ours.log_singular_values[1, 2])
    assert np.isposinf(ours.log_condition()[1])
    np.testing.assert_allclose(ours.log_condition(2)[1], -8 * np.log(0.2), **EXACT)


def test_rows_of_very_different_size():
    """Saturated units: rows of D from 1 to 1e-30, thus condition numbers far beyond rounding in a single step."""
    rng = np.random.default_rng(4)
    scales = np.logspace(0, -30, 8)
    mixing = rng.normal(size=(8, 8))
    ours = long_term_jacobian(
        linear, jnp.asarray(scales[:, None] * mixing)[None], state=jnp.zeros(8)
    ).log_singular_values
    exact = np.log(scales).sum() + np.linalg.slogdet(mixing)[1]
    np.testing.assert_allclose(ours.sum(), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_jacobi_with_equal_and_absent_rows(n):
    rows, measure = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0], jax.jit(log_singular_values)
    logs = measure(Graded(jnp.full(n, -4000, jnp.int32), jnp.asarray(rows)))
    np.testing.assert_allclose(logs, -4000 * np.log(2), **EXACT)
    equal = np.broadcast_to(rows[:1], (n, n))
    logs = measure(Graded(jnp.full(n, 3000, jnp.int32), jnp.asarray(equal)))
    np.testing.assert_allclose(logs[0], 3000 * np.log(2) + np.log(n) / 2, **EXACT)
    assert np.isneginf(logs[1:]).all()


def test_float32():
    make, J = tanh_network(6, 1.5, KEY)
    inputs = jax.random.normal(jax.random.key(2), (300, 6))
    exact = long_term_jacobian(linear, dense_jacobians(make(J), jnp.zeros(6), inputs), state=jnp.zeros(6))
    jacobians = dense_jacobians(make(J), jnp.zeros(6), inputs).astype(jnp.float32)
    single = long_term_jacobian(linear, jacobians, state=jnp.zeros(6, jnp.float32))
    assert single.log_singular_values.dtype == single.log_condition().dtype == jnp.float32
    np.testing.assert_allclose(single.log_singular_values, exact.log_singular_values, rtol=1e-6, atol=1e-2)


def test_vectors_forth_and_back():
    """<u, T v> = <T^T u, v> where both sides are far below underflow."""
    step, state, inputs = small(6, 2000)
    step = (lambda inner: lambda h, s: 0.2 * inner(h, s))(step)
    v, u = jax.random.normal(KEY, (2, 6, 3))
    forth, Tv = long_term_jvp(step, inputs, v, state=state)
    back, Tu = long_term_vjp(step, inputs, u, state=state)
    assert forth.max() < -800
    assert back.shape == forth.shape == (3,)
    left = u.T @ (Tv * jnp.exp(forth - forth.max())[None, :])
    right = Tu.T @ v * jnp.exp(back - forth.max())[:, None]
    np.testing.assert_allclose(left, right, rtol=1e-9)
    np.testing.assert_allclose(jnp.linalg.norm(Tv, axis=0), 1, **EXACT)
    sigma = long_term_jacobian(step, inputs, state=state, horizons=[2000]).log_singular_values[0, 0]
    assert (forth <= sigma + np.log(np.linalg.norm(v, axis=0)) + 1e-9).all()


@pytest.mark.parametrize("adjoint", [False, True])
def test_vectors_multiplied_out(adjoint):
    step, state, inputs = small(4, 5)
    vectors = np.concatenate([np.random.default_rng(0).normal(size=(4, 2)), np.zeros((4, 1))], axis=1)
    log_norms, directions = (long_term_vjp if adjoint else long_term_jvp)(step, inputs, vectors, state=state)
    product = np.linalg.multi_dot(np.asarray(dense_jacobians(step, state, inputs))[::-1])
    exact = (product.T if adjoint else product) @ vectors
    np.testing.assert_allclose(np.exp(log_norms) * np.asarray(directions), exact, **EXACT)
    assert np.isneginf(log_norms[2])
    assert (directions[:, 2] == 0).all()


@pytest.mark.parametrize(
    ("horizons", "message"),
    [
        ([0], r"horizons must be increasing integers from 1 to 40 \(the run has 40 steps\), got horizons\[0\]=0"),
        ([1, 41], r"got horizons\[1\]=41"),
        ([3, 3], r"got horizons\[1\]=3"),
        ([5, 2], r"got horizons\[1\]=2"),
        (np.array([1.0]), "got dtype float64"),
        (np.array([True]), "got dtype bool"),
        ([], r"a sequence of at least one, got horizons=\[\]"),
        (np.ones((1, 1), int), "a sequence of at least one"),
    ],
)
def test_bad_horizons(horizons, message):
    step, state, inputs = small()
    with pytest.raises(ValueError, match=message) as error:
        long_term_jacobian(step, inputs, state=state, horizons=horizons)
    assert "\n" not in str(error.value)


def test_other_bad_arguments():
    step, state, inputs = small()
    with pytest.raises(ValueError, match="known outside jit"):
        jax.jit(lambda t: long_term_jacobian(step, inputs, state=state, horizons=t))(jnp.array([1]))
    with pytest.raises(ValueError, match="NaN or infinity at horizon 12"):
        long_term_jacobian(lambda h, s: 1e30 * (h + 1) ** 2, inputs, state=state, horizons=[1, 12])
    with pytest.raises(ValueError, match=r"vectors must have shape \(6, m\).*got shape \(6,\)"):
        long_term_jvp(step, inputs, jnp.ones(6), state=state)
    with pytest.raises(ValueError, match="vectors must be finite"):
        long_term_jvp(step, inputs, jnp.full((6, 1), jnp.nan), state=state)
    ours = long_term_jacobian(step, inputs, state=state, horizons=[2])
    with pytest.raises(ValueError, match=r"k must be an integer from 1 to 6 .*got k=0"):
        ours.log_condition(0)
    with pytest.raises(ValueError, match=r"k must be an integer from 1 to 2 \(there are 2 exponents\), got k=3"):
        ours.predicted_log_condition(np.zeros(2), 3)


def test_condition_numbers_of_a_vmap_are_those_alone():
    rates = jnp.array([[0.9, 0.5], [0.8, 0.1], [1.0, 0.7]])

    def measure(rates):
        return fl.long_term_jacobian(lambda h, s: rates * h, None, state=jnp.ones(2), steps=4, horizons=[1, 2, 4])

    found = jax.vmap(measure)(rates)
    expected = np.log(rates[:, :1] / rates[:, 1:]) * np.array([1, 2, 4])
    np.testing.assert_allclose(found.log_condition(), expected, rtol=1e-9)
    np.testing.assert_array_equal(found.log_condition(1), np.zeros((3, 3)))
