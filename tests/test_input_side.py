"""Measures of the input side: memory functions, reachability and gates, against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg

import flossing as fl

N = 12
RNG = np.random.default_rng(0)


def white(key, steps, channels=1):
    return jax.random.normal(jax.random.key(key), (steps, channels))


def linear(J, B):
    J, B = jnp.asarray(J), jnp.asarray(B)
    return lambda h, s: J @ h + B @ s


def stable(radius, size=N, channels=1):
    J = RNG.normal(size=(size, size))
    return radius * J / np.abs(np.linalg.eigvals(J)).max(), RNG.normal(size=(size, channels))


def test_a_delay_line_remembers_as_many_inputs_as_it_has_units():
    shift, first = np.eye(N, k=-1), np.eye(N)[:, :1]
    memory = fl.memory_function(linear(shift, first), white(0, 8000), state=jnp.zeros(N), delays=2 * N)
    np.testing.assert_allclose(memory.values[:N], 1, atol=1e-10)
    assert np.abs(memory.values[N:]).max() < 0.05
    value, error = memory.capacity()
    assert abs(value - N) < 4 * error < 1.5


def test_an_integrator_remembers_one_number():
    a = 0.8
    memory = fl.memory_function(lambda h, s: a * h + s, white(1, 80000), state=jnp.zeros(1), delays=20)
    expected = (1 - a * a) * a ** (2 * np.arange(20))
    assert (np.abs(memory.values[:, 0] - expected) < 5 * memory.standard_error()[:, 0]).all()
    value, error = memory.capacity()
    assert abs(value - 1) < 4 * error < 0.5


@pytest.mark.parametrize("batched", [False, True])
def test_linear_networks(batched):
    """M_d = (J^d B)^T C^-1 J^d B, with C = J C J^T + B B^T; along one long sequence, or several shorter ones."""
    J, B = stable(0.8)
    inputs = white(2, 6000).reshape(20, 300, 1) if batched else white(2, 6000)
    memory = fl.memory_function(linear(J, B), inputs, state=jnp.zeros(N), delays=30, transient=100, batched=batched)
    C, response, expected = scipy.linalg.solve_discrete_lyapunov(J, B @ B.T), B, []
    for _ in range(30):
        expected.append((response.T @ np.linalg.solve(C, response)).item())
        response = J @ response
    assert (np.abs(memory.values[:, 0] - expected) < 5 * memory.standard_error()[:, 0] + 1e-3).all()


def test_nothing_is_found_in_noise():
    """Independent channels: the corrected share is 0 on average, though 10 weights are fitted to 100 numbers."""
    found = [
        fl.memory_function(lambda h, s: s[:10], white(seed, 100, 11), state=jnp.zeros(10), delays=1).values[0, 10]
        for seed in range(200)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)
    assert np.std(found) / np.sqrt(200) < 0.02


@pytest.mark.parametrize(("size", "channels", "delays", "radius"), [(6, 1, 40, 0.2), (5, 2, 12, 0.5), (8, 3, 2, 1.0)])
def test_reachability_is_the_square_root_of_the_gramian(size, channels, delays, radius):
    """Singular values of [B, J B, ...] in 300 digits; the longest spans 60 orders of magnitude between columns."""
    J, B = stable(radius, size, channels)
    found = fl.reachability(linear(J, B), white(3, delays + 5, channels), state=jnp.zeros(size), delays=delays)
    with mpmath.workdps(300):
        exact, blocks = mpmath.matrix(J.tolist()), [mpmath.matrix(B.tolist())]
        for _ in range(delays - 1):
            blocks.append(exact * blocks[-1])
        columns = [block[:, c] for block in blocks for c in range(channels)]
        whole = mpmath.matrix(size, len(columns))
        for c, column in enumerate(columns):
            whole[:, c] = column
        gram = whole * whole.T if size <= len(columns) else whole.T * whole
        logs = sorted((float(mpmath.log(abs(e)) / 2) for e in mpmath.eigsy(gram, eigvals_only=True)), reverse=True)
        norms = [float(mpmath.log(mpmath.norm(column))) for column in columns]
    np.testing.assert_allclose(found.log_singular_values, logs, rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.ravel(found.log_norms), norms, rtol=0, atol=1e-12)


def test_reachability_at_any_condition():
    """A diagonal network with a common input is a Vandermonde matrix; beyond 1e300 nothing under- or overflows."""
    rates = np.array([1e-3, 1e-9])
    found = fl.reachability(linear(np.diag(rates), np.ones((2, 1))), white(4, 80), state=jnp.zeros(2), delays=80)
    assert float(found.log_norms[-1, 0]) == pytest.approx(79 * np.log(1e-3), abs=1e-9)
    assert np.isfinite(found.log_singular_values).all()
    assert float(found.log_singular_values[1]) == pytest.approx(np.log((1e-3 - 1e-9) / np.sqrt(2)), abs=1e-5)
    assert found.dimension(1e-2) == 1 and found.dimension(1e-4) == 2


def test_reachability_along_an_orbit_in_float32():
    """A tanh network: the response is the product of the Jacobians, and float32 agrees with float64."""
    cell, inputs = fl.cells.VanillaRNN(N, 2, key=jax.random.key(0)), white(5, 30, 2)
    found = fl.reachability(cell, inputs)
    last = lambda s: jax.lax.scan(lambda h, s: (cell(s, h), None), cell.zeros(), s)[0]  # noqa: E731
    matrix = np.asarray(jax.jacfwd(last)(inputs))[:, ::-1][:, : N // 2].reshape(N, -1)
    expected = np.log(np.linalg.svd(matrix, compute_uv=False))
    np.testing.assert_allclose(found.log_singular_values, expected, rtol=0, atol=1e-9)
    assert found.log_norms.shape == (N // 2, 2)
    with jax.enable_x64(False):
        single = jax.tree.map(lambda x: x.astype(jnp.float32), cell)
        values = fl.reachability(single, np.asarray(inputs, np.float32)).log_singular_values
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-2)


def test_dimensions_of_a_batch():
    """Rows of a vmapped measurement are counted each for itself; a network that no input reaches has none."""
    J, _ = stable(0.5)
    B = np.eye(N)[:, :1]
    starts = jnp.zeros((3, N))
    found = jax.vmap(lambda h: fl.reachability(linear(J, B), white(9, 20), state=h, delays=6))(starts)
    one = fl.reachability(linear(J, B), white(9, 20), state=starts[0], delays=6)
    np.testing.assert_array_equal(found.dimension(), [one.dimension()] * 3)
    assert fl.reachability(linear(J, 0 * B), white(9, 20), state=starts[0], delays=6).dimension() == 0


def test_steps_with_a_reverse_rule_alone_are_measured():
    @jax.custom_vjp
    def squash(x):
        return jnp.tanh(x)

    squash.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))
    J, B = stable(0.9)
    inputs = white(6, 20)
    one, other = (
        fl.reachability(lambda h, s, f=f: f(J @ h + B @ s), inputs, state=jnp.zeros(N)) for f in (squash, jnp.tanh)
    )
    np.testing.assert_allclose(one.log_singular_values, other.log_singular_values, atol=1e-9)


def test_gates_are_those_of_the_equations():
    """From the values of the gates the next state follows; gates that start open or closed say so."""
    cell, inputs = fl.cells.GRU(N, 2, key=jax.random.key(1)), white(7, 15, 2)
    gates = fl.gate_values(cell, inputs)
    w_ih, w_hh, b, b_n = (np.asarray(getattr(cell.cell, n)) for n in ("weight_ih", "weight_hh", "bias", "bias_n"))
    reset, write, h = np.asarray(gates["reset"]), np.asarray(gates["write"]), np.zeros(N)
    for t, s in enumerate(np.asarray(inputs)):
        new = np.tanh((w_ih @ s + b)[2 * N :] + reset[t] * ((w_hh @ h)[2 * N :] + b_n))
        h = h + write[t] * (new - h)
    np.testing.assert_allclose(h, fl.lyapunov_spectrum(cell, inputs, k=1).state, atol=1e-12)
    for make, expected in ((fl.cells.GRU, {"write": 0.95, "reset": 0.95}),
                           (fl.cells.LSTM, {"write": 0.95, "keep": 0.05, "show": 0.95})):  # fmt: skip
        values = fl.gate_values(make(32, 2, key=jax.random.key(2), gates="open"), white(8, 20, 2))
        assert {name: pytest.approx(float(v.mean()), abs=0.03) for name, v in values.items()} == expected
    bare = eqx.nn.GRUCell(2, N, use_bias=False, key=jax.random.key(1))
    assert fl.gate_values(bare, inputs)["write"].shape == (15, N)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda c: fl.memory_function(c, white(0, 30, 2)), "inputs must have at least 51 steps .* got 30"),
        (
            lambda c: fl.memory_function(c, white(0, 300, 2).at[:, 1].set(0.1)),
            "inputs must vary to be remembered, .* channel 1",
        ),
        (lambda c: fl.memory_function(c, white(0, 300, 2), transient=-5), "transient must be .* got transient=-5"),
        (lambda c: jax.jit(lambda x: fl.memory_function(c, x))(white(0, 300, 2)), "must be called outside jit"),
        (lambda c: fl.memory_function(c, jnp.ones((300, 2))), "inputs must vary to be remembered, .* channel 0"),
        (lambda c: fl.memory_function(c, white(0, 300, 2), delays=0), "delays must be .* got delays=0"),
        (lambda c: fl.memory_function(c, white(0, 300, 2), folds=1), "folds must be .* got folds=1"),
        (
            lambda c: fl.memory_function(lambda h, s: 1.5 * h + s, white(0, 300), state=jnp.zeros(1)),
            "state must be stationary",
        ),
        (lambda c: fl.reachability(c, white(0, 30, 2), delays=31), "delays must be .* got delays=31"),
        (lambda c: fl.reachability(lambda h, s: h, None, state=jnp.ones(2), steps=3), "inputs must hold floating"),
        (lambda c: fl.gate_values(c, white(0, 30, 2)), "model must be a GRU or an LSTM .* got VanillaRNN"),
    ],
)
def test_bad_input(measure, message):
    with pytest.raises(ValueError, match=message):
        measure(fl.cells.VanillaRNN(12, 2, key=jax.random.key(0)))
