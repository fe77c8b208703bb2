"""Cells against networks with known exponents, and properties of every cell."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing.cells import GRU, LIF, LRU, LSTM, BinaryRNN, Cell, DaleRNN, LeakyRNN, Network, Stacked, VanillaRNN

KEY = jax.random.key(4)
EXACT = {"rtol": 0, "atol": 1e-10}
TRIANGULAR = np.diag([2.0, 1.0, 0.5, 0.1]) + np.triu(np.random.default_rng(0).uniform(0.1, 0.5, (4, 4)), 1)
INPUTS = np.random.default_rng(1).normal(size=(60, 3))

CELLS = {
    "vanilla": functools.partial(VanillaRNN, 4, 3),
    "leaky": functools.partial(LeakyRNN, 4, 3),
    "gru": functools.partial(GRU, 4, 3),
    "lstm": functools.partial(LSTM, 4, 3),
    "dale": functools.partial(DaleRNN, 4, 3, density=0.9),
    "lru": functools.partial(LRU, 4, 3),
    "binary": functools.partial(BinaryRNN, 4, 3),
    "lif": functools.partial(LIF, 4, 3),
    "stacked": lambda *, key: Stacked([LSTM(4, 3, key=key), LRU(2, 4, key=key)]),
}


def spectrum(cell, inputs, *, state=None, **options):
    return fl.lyapunov_spectrum(
        lambda state, s: cell(s, state), inputs, state=cell.zeros() if state is None else state, **options
    )


def replaced(cell, **arrays):
    return eqx.tree_at(lambda c: [getattr(c, name) for name in arrays], cell, [jnp.asarray(a) for a in arrays.values()])


def recurrent_off(gated):
    return eqx.tree_at(lambda c: c.cell.weight_hh, gated, replace_fn=jnp.zeros_like)


def gates(gated, count):
    """W s_t + b of each gate, (T, N) each: the full gate input if the recurrent weights are 0."""
    return np.split(INPUTS @ np.asarray(gated.cell.weight_ih).T + np.asarray(gated.cell.bias), count, axis=1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("make", "b", "dt"),
    [
        (VanillaRNN, 0.0, 1.0),
        (functools.partial(LeakyRNN, dt=1.0), 0.0, 1.0),
        (functools.partial(LeakyRNN, dt=0.3), 0.0, 0.3),
        (functools.partial(LeakyRNN, dt=0.3, nonlinearity="relu"), 1.0, 0.3),
        (functools.partial(LeakyRNN, dt=1.0, nonlinearity="relu"), 1.0, 1.0),
    ],
)
def test_where_the_nonlinearity_is_linear(make, b, dt):
    """D = (1 - dt) 1 + dt J, triangular, so the exponents are log((1 - dt) + dt J_ii).

    tanh at x = 0 has slope 1, and b = 0 keeps x there; relu has slope 1 at x > 0, where J >= 0 and b > 0 keep x.
    """
    cell = replaced(make(4, key=KEY), J=TRIANGULAR, b=np.full(4, b))
    ours = spectrum(cell, np.zeros((40, 1)), state=cell.zeros() + b, basis=np.eye(4))
    np.testing.assert_allclose(ours.exponents, np.log(1 - dt + dt * np.diag(TRIANGULAR)), **EXACT)


def test_leaky_networks_per_unit_of_time():
    """The mean exponent is <log|det D|> / (N dt), and det D = (1 - dt)^N but for terms of second order in dt.

    A single network of 80 units scatters by 1.3e-3 around log(0.9) / 0.1; the mean over 24 stays within 1e-3.
    """

    def measure(key):
        cell = LeakyRNN(80, key=key, dt=0.1, gain=2.0, bias_scale=0.0)
        cell = replaced(cell, J=cell.J - jnp.diag(jnp.diagonal(cell.J)))
        options = {"transient": 200, "interval": 20, "time_step": 0.1}
        return spectrum(cell, jnp.zeros((600, 1)), state=jax.random.normal(key, (80,)), **options).exponents

    exponents = jax.vmap(measure)(jax.random.split(jax.random.key(0), 24))
    assert abs(exponents.mean() - np.log(0.9) / 0.1) < 1e-3
    assert exponents[:, 0].max() > 0  # and some of them are chaotic


def test_gru_without_recurrent_weights():
    """n and z depend on the input alone: h' = (1 - z) n + z h, D = diag(z), and the exponents are <log z_i>."""
    cell = recurrent_off(GRU(4, 3, key=KEY))
    ours = spectrum(cell, INPUTS, basis=np.eye(4))
    np.testing.assert_allclose(ours.exponents, np.log(sigmoid(gates(cell, 3)[1])).mean(0), **EXACT)


def test_lstm_without_recurrent_weights():
    """The gates depend on the input alone, and h' = o tanh(c') on c alone: directions of h are lost in one step.

    A tangent along c_i stays in the plane of h_i and c_i, as (a, 1) with a = o (1 - tanh(c')^2), and its part along c
    grows by f. Hence T lambda_i = sum of log f_i + log(1 + a_T^2) / 2; the N exponents of h are -inf.
    """
    cell = recurrent_off(LSTM(4, 3, key=KEY))
    i, f, g, o = gates(cell, 4)
    i, f, g, o, c = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o), np.zeros(4)
    for t in range(len(INPUTS)):
        c = f[t] * c + i[t] * g[t]
    a = o[-1] * (1 - np.tanh(c) ** 2)
    ours = spectrum(cell, INPUTS, basis=np.roll(np.eye(8), 4, axis=0))  # the directions of c come first
    np.testing.assert_allclose(ours.state[1], c, **EXACT)
    expected = (np.log(f).sum(0) + 0.5 * np.log1p(a**2)) / len(INPUTS)
    np.testing.assert_allclose(ours.exponents[:4], expected, **EXACT)
    assert np.isneginf(ours.exponents[4:]).all()


@pytest.mark.parametrize("coupling", [0.0, 1.0])
def test_two_layers_have_the_exponents_of_both(coupling):
    """D is block triangular: the union of the spectra, coupled or not, the second layer driven by the first.

    A basis that begins with directions of the second layer alone makes it exact: they stay there, and taking them out
    of the others leaves directions of the first layer alone.
    """
    first, second = VanillaRNN(4, 3, key=KEY), LeakyRNN(2, 4, key=KEY, input_scale=coupling)
    q1, q2 = (np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0] for n in (4, 2))
    basis = np.block([[np.zeros((4, 2)), q1], [q2, np.zeros((2, 4))]])
    ours = spectrum(Stacked([first, second]), INPUTS, basis=basis)

    h, outputs = first.zeros(), []
    for s in INPUTS:
        h = first(jnp.asarray(s), h)
        outputs.append(first.output(h))
    lower, upper = spectrum(first, INPUTS, basis=q1), spectrum(second, jnp.stack(outputs), basis=q2)
    np.testing.assert_allclose(ours.exponents, np.concatenate([upper.exponents, lower.exponents]), **EXACT)
    np.testing.assert_allclose(ours.state[1], upper.state, **EXACT)


def test_linear_recurrent_unit():
    """z' = lambda z turns the real plane of z and scales it: log|lambda| twice, and -exp(nu) is its derivative."""
    cell = LRU(3, 3, key=KEY, r_min=0.2, r_max=0.9)
    planes = np.eye(6)[:, [0, 3, 1, 4, 2, 5]]  # real and imaginary part of each unit side by side

    def measure(cell):
        return spectrum(cell, INPUTS, basis=planes).exponents

    np.testing.assert_allclose(measure(cell), np.repeat(-np.exp(cell.nu), 2), **EXACT)
    assert (np.exp(-np.exp(cell.nu)) > 0.2).all()
    assert (np.exp(-np.exp(cell.nu)) < 0.9).all()
    gradient = eqx.filter_jit(jax.grad(lambda cell: measure(cell).sum()))(cell)
    np.testing.assert_allclose(gradient.nu, -2 * np.exp(cell.nu), **EXACT)
    others = jax.tree_util.tree_leaves(eqx.tree_at(lambda g: g.nu, gradient, jnp.zeros(3)))
    assert all(np.abs(leaf).max() < 1e-12 for leaf in others)


def test_linear_recurrent_unit_as_a_sum():
    """h_T = sum_t lambda^(T - t) gamma B s_t, and gamma^2 = 1 - |lambda|^2 as drawn."""
    cell = LRU(3, 3, key=KEY)
    poles = np.exp(-np.exp(cell.nu) + 1j * np.asarray(cell.theta))
    np.testing.assert_allclose(np.exp(2 * cell.log_gamma), 1 - np.abs(poles) ** 2, **EXACT)
    drive = INPUTS @ (np.asarray(cell.B_real) + 1j * np.asarray(cell.B_imag)).T * np.exp(cell.log_gamma)
    powers = poles ** np.arange(len(INPUTS))[::-1, None]
    h = functools.reduce(lambda h, s: cell(jnp.asarray(s), h), INPUTS, cell.zeros())
    np.testing.assert_allclose(h, (powers * drive).sum(0), **EXACT)
    np.testing.assert_allclose(cell.output(h), np.concatenate([h.real, h.imag]), **EXACT)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_keeps_the_contract(name):
    """A cell steps in its parameters' dtype, identically alone, compiled and batched, with any readout size."""
    cell = CELLS[name](key=KEY)
    network = Network(cell, 2, key=KEY)
    assert isinstance(cell, Cell)
    single = jax.tree_util.tree_map(lambda x: x.astype(jnp.float32), network)
    outputs = eqx.filter_jit(lambda network, inputs: network.outputs(inputs))
    assert outputs(single, INPUTS.astype("f4")).dtype == jnp.float32
    halves = {"float32": "float32", "complex64": "float32"}
    state = jax.eval_shape(single, jnp.zeros(3, jnp.float32), single.zeros())
    assert {halves[str(leaf.dtype)] for leaf in jax.tree_util.tree_leaves(state)} == {"float32"}

    inputs = jnp.stack([INPUTS, 2 * INPUTS])
    batch = jax.vmap(functools.partial(outputs, network))(inputs)
    assert batch.shape == (2, len(INPUTS), 2)
    for sequence, along in zip(inputs, batch, strict=True):
        state, read = network.zeros(), []
        for s in sequence[:5]:
            state = network(s, state)
            read.append(network.readout.weight @ cell.output(state) + network.readout.bias)
        np.testing.assert_allclose(along[:5], jnp.stack(read), **EXACT)


@pytest.mark.usefixtures("optax_promotion")
def test_a_network_is_flossed_as_its_cell_is():
    """The readout does not enter the step, so its gradient is 0 and it does not change; the cell does."""
    network = Network(GRU(4, 3, key=KEY), 2, key=KEY)
    options = {"state": network.zeros(), "key": KEY, "k": 2, "epochs": 30, "chunk": 30}
    flossed, history = fl.floss(network, INPUTS, **options)
    alone, _ = fl.floss(network.cell, INPUTS, **options)
    assert history.loss[-1] < history.loss[0]
    assert (flossed.readout.weight == network.readout.weight).all()
    np.testing.assert_allclose(flossed.cell.cell.weight_hh, alone.cell.weight_hh, **EXACT)  # pyright: ignore[reportAttributeAccessIssue]


def test_orthogonal_initialisations():
    leaky = LeakyRNN(4, key=KEY, recurrent="orthogonal", gain=1.5)
    np.testing.assert_allclose(leaky.J @ leaky.J.T, 1.5**2 * np.eye(4), **EXACT)
    for gated, count in ((GRU(4, key=KEY, recurrent="orthogonal"), 3), (LSTM(4, key=KEY, recurrent="orthogonal"), 4)):
        blocks = np.split(np.asarray(gated.cell.weight_hh), count)
        for block in blocks:
            np.testing.assert_allclose(block @ block.T, np.eye(4), **EXACT)
        assert abs(blocks[0] - blocks[1]).max() > 0.1


def test_gates_start_open_or_forget_over_a_horizon():
    """Biases of the gates; the rest is as drawn. sigmoid(3) = 0.95."""
    drawn, opened = GRU(4, key=KEY).cell, GRU(4, key=KEY, gates="open").cell
    np.testing.assert_array_equal(opened.bias, np.concatenate([[3.0] * 4, [-3.0] * 4, drawn.bias[8:]]))
    np.testing.assert_array_equal(opened.weight_hh, drawn.weight_hh)
    opened, plain = LSTM(4, key=KEY, gates="open").cell.bias, LSTM(4, key=KEY, forget_bias=0.0).cell.bias
    np.testing.assert_array_equal(opened, np.concatenate([[3.0] * 4, [-3.0] * 4, plain[8:12], [3.0] * 4]))
    chrono = LSTM(200, key=KEY, gates="chrono", horizon=50).cell.bias
    times = 1 + np.exp(chrono[200:400])  # sigmoid(b) = 1 - 1 / times
    assert times.min() >= 2 and times.max() <= 50 and 20 < np.median(times) < 32
    np.testing.assert_array_equal(chrono[:200], -chrono[200:400])
    gru = GRU(200, key=KEY, gates="chrono", horizon=50).cell.bias  # its z keeps the state where it is 1
    times = 1 + np.exp(gru[200:400])
    assert times.min() >= 2 and times.max() <= 50 and 20 < np.median(times) < 32
    np.testing.assert_array_equal(gru[:200], GRU(200, key=KEY).cell.bias[:200])


@pytest.mark.parametrize("make", [GRU, LSTM])
def test_input_scale_and_gain_of_gated_cells(make):
    """The input weights of the new content are N(0, scale), and recurrent blocks `gain` times what they were."""
    drawn, scaled = make(300, 3, key=KEY).cell, make(300, 3, key=KEY, input_scale=0.2, gain=1.5).cell
    assert scaled.weight_ih[600:900].std() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(scaled.weight_ih[:600], drawn.weight_ih[:600])
    np.testing.assert_allclose(scaled.weight_hh, 1.5 * drawn.weight_hh, **EXACT)
    gaussian = make(300, key=KEY, recurrent="gaussian", gain=0.7).cell.weight_hh
    assert gaussian.std() == pytest.approx(0.7 / np.sqrt(300), rel=0.02)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "softplus"])
@pytest.mark.usefixtures("optax_promotion")
def test_dale_networks_keep_signs_and_zeros(nonlinearity):
    """Through flossing and training: columns keep their sign, and missing connections stay exactly 0."""
    cell = DaleRNN(20, 3, key=KEY, nonlinearity=nonlinearity, dt=0.5, bias_mean=0.5)
    before = np.asarray(cell.J)
    assert abs(np.linalg.eigvals(before)).max() == pytest.approx(1.3)
    assert (before[:, :16] >= 0).all() and (before[:, 16:] <= 0).all() and 0.05 < (before != 0).mean() < 0.35
    cell, _ = fl.floss(cell, jnp.asarray(INPUTS), k=4, epochs=30, optimiser=optax.adam(0.1), report=False)
    network = Network(cell, key=KEY)
    optimiser = optax.adam(0.1)
    for progress in fl.train(
        fl.init_training(network, optimiser),
        loss=lambda network, x: (jnp.mean(jnp.square(network.outputs(x) - 1)), {}),
        batch=lambda key: jnp.asarray(INPUTS),
        optimiser=optimiser,
        key=KEY,
        epochs=20,
    ):
        network = progress.state.model
    assert isinstance(network.cell, DaleRNN)
    after = np.asarray(network.cell.J)
    np.testing.assert_array_equal(after == 0, before == 0)
    np.testing.assert_array_equal(np.sign(after), np.sign(before))
    assert abs(after - before).max() > 0.1


def test_a_dale_network_from_weights_is_that_network():
    drawn = DaleRNN(12, 2, key=KEY, density=0.4, dt=0.3, nonlinearity="softplus")
    given = DaleRNN.from_weights(np.asarray(drawn.J), drawn.ws, drawn.b, dt=0.3, nonlinearity="softplus")
    np.testing.assert_array_equal(given.J, drawn.J)
    np.testing.assert_array_equal(given.mask, drawn.J != 0)
    h, s = jax.random.normal(KEY, (12,)), jnp.ones(2)
    np.testing.assert_array_equal(given(s, h), drawn(s, h))
    moved = eqx.tree_at(lambda cell: cell.W, given, given.W - 1)  # some sizes cross 0
    assert np.all(np.sign(moved.J) == np.sign(drawn.J))
    for changed, message in (
        (
            {"J": -np.abs(np.asarray(drawn.J)) * np.where(np.arange(12) % 2, 1, -1)[:, None]},
            "J must have one sign in each column",
        ),
        ({"J": np.zeros((12, 11))}, r"J, ws and b must have the shapes \(N, N\), \(N, S\) and \(N,\), got \(12, 11\)"),
        ({"b": np.zeros((12, 1))}, "J, ws and b must have the shapes"),
        ({"J": np.full((12, 12), np.nan)}, "J must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            DaleRNN.from_weights(**{"J": drawn.J, "ws": drawn.ws, "b": drawn.b} | changed)


def test_a_dale_network_takes_noise_as_input():
    """Noise enters with the drive: with phi = tanh, the identity J = 0 leaves tanh(b + ws s + noise)."""
    cell = DaleRNN(5, 3, key=KEY)
    noise = jax.random.normal(KEY, (60, 5))
    state = cell((jnp.asarray(INPUTS[0]), noise[0]), cell.zeros())
    np.testing.assert_allclose(state, np.tanh(cell.b + cell.ws @ INPUTS[0] + noise[0]), **EXACT)
    np.testing.assert_allclose(
        cell(jnp.asarray(INPUTS[0]), cell.zeros()), np.tanh(cell.b + cell.ws @ INPUTS[0]), **EXACT
    )
    driven = fl.lyapunov_spectrum(cell, (jnp.asarray(INPUTS), noise), k=2)
    assert np.isfinite(driven.exponents).all()


def test_forget_bias():
    shift = LSTM(4, key=KEY, forget_bias=2.0).cell.bias - LSTM(4, key=KEY, forget_bias=0.0).cell.bias
    np.testing.assert_allclose(shift, np.repeat([0.0, 2.0, 0.0, 0.0], 4), **EXACT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (functools.partial(GRU, 0), "units must be an integer of at least 1, got units=0"),
        (functools.partial(LIF, 4, 0), "inputs must be an integer of at least 1, got inputs=0"),
        (functools.partial(LeakyRNN, 4, dt=1.5), r"dt must be at most 1, got dt=1.5"),
        (functools.partial(LeakyRNN, 4, dt=0.0), r"dt must be a positive number, got dt=0.0"),
        (functools.partial(LIF, 4, tau_mem=-10.0), r"tau_mem must be a positive number, got tau_mem=-10.0"),
        (functools.partial(BinaryRNN, 4, flossing_beta=0.0), "flossing_beta must be a positive number"),
        (functools.partial(LRU, 4, r_min=0.9, r_max=0.5), r"r_min and r_max must .*got r_min=0.9, r_max=0.5"),
        (functools.partial(LRU, 4, r_max=1.0), r"r_min and r_max must .*r_max=1.0"),
        (functools.partial(DaleRNN, 4, density=1.5), r"density must be at most 1, got density=1.5"),
        (functools.partial(DaleRNN, 1), "units must be an integer of at least 2, got units=1"),
        (functools.partial(LSTM, 4, gates="chrono"), "horizon must be an integer of at least 3 for gates='chrono'"),
        (lambda key: Stacked([]), r"cells must hold at least one cell, got cells=\[\]"),
        (lambda key: Network(GRU(4, key=key), 0, key=key), "outputs must be an integer of at least 1, got outputs=0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(key=KEY)
    assert "\n" not in str(caught.value)
