"""The balance experiment: its task, network, loss and measures."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import flossing as fl
from flossing.cells import BalancedRNN
from flossing.tasks import OrnsteinUhlenbeck
from flossing_lab.balance import experiment as balance
from flossing_lab.balance.config import BalanceConfig
from flossing_lab.balance.measures import (
    eigenvalues,
    find_clusters,
    mean_couplings,
    outliers,
    require_clustering,
    tightness,
    weight_correlations,
)
from flossing_lab.balance.table import EARLY, plateau_end
from flossing_lab.runs.checkpoint import with_parameters
from flossing_lab.runs.files import read_arrays
from flossing_lab.runs.run import load_model, run

TINY = {
    "units": 8, "signals": 2, "batch": 2, "steps": 10, "epochs": 12, "chunk": 5, "test_every": 4,
    "relax_every": 6, "snapshots_every": 4, "spectrum_steps": 20, "checkpoint_every": 1,
}  # fmt: skip
SMALL = BalanceConfig().with_values(dtype="float64", **TINY)


def test_signals_are_those_of_the_process_in_continuous_time():
    """A signal is linear in its kicks, so its covariances are sums over the responses R to single kicks.

    In continuous time, started at the mean: cov(s_t, s_{t+u}) = I1^2 / (2 tau) (1 - exp(-2 t / tau)) exp(-u / tau).
    """
    task = OrnsteinUhlenbeck(steps=6, dt=0.07, tau=0.1, amplitude=0.3, mean=2.0)
    responses = jax.vmap(lambda kicks: task.trial(kicks).inputs[:, 0] - 2)(jnp.eye(5)[:, :, None])
    t = 0.07 * np.arange(6)
    early, late = np.minimum(*np.meshgrid(t, t)), np.maximum(*np.meshgrid(t, t))
    expected = 0.3**2 / 0.2 * -np.expm1(-2 * early / 0.1) * np.exp(-(late - early) / 0.1)
    np.testing.assert_allclose(responses.T @ responses, expected, rtol=0, atol=1e-14)
    assert OrnsteinUhlenbeck().stationary_deviation == pytest.approx(0.1 / math.sqrt(0.2), abs=1e-15)


def test_targets_and_scored_steps():
    sequence = OrnsteinUhlenbeck(signals=3, target_gain=0.5)(jax.random.key(0))
    assert sequence.inputs.shape == (50, 3)
    assert (sequence.inputs[0] == 1).all()
    np.testing.assert_array_equal(sequence.targets, sequence.inputs / 2)
    np.testing.assert_array_equal(np.flatnonzero(sequence.mask) + 1, np.arange(10, 51))
    assert np.abs(np.corrcoef(sequence.inputs[1:].T) - np.eye(3)).max() < 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"signals": 0}, "signals must be an integer of at least 1, got signals=0"),
        ({"tau": 0.0}, "tau must be a positive number, got tau=0.0"),
        ({"dt": -0.1}, "dt must be a positive number, got dt=-0.1"),
        ({"mean": math.nan}, "mean must be a finite number, got mean=nan"),
        ({"first_scored": 51}, "first_scored must be an integer from 1 to 50, got first_scored=51"),
        (
            {"tau": 1e-300, "amplitude": 1e200},
            r"amplitude / sqrt\(2 tau\) must be finite, got amplitude=1e\+200, tau=1e-300",
        ),
    ],
)
def test_tasks_that_are_not_legal(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        OrnsteinUhlenbeck(**values)


@pytest.mark.parametrize("shape", [(50, 2), (48, 2), (49, 1)])
def test_kicks_are_one_for_each_step_but_the_first(shape):
    task = OrnsteinUhlenbeck(signals=2)
    assert task.trial(jnp.zeros((49, 2))).inputs.shape == (50, 2)
    with pytest.raises(ValueError, match=r"xi must be of shape \(steps - 1, signals\) = \(49, 2\), got \("):
        task.trial(jnp.zeros(shape))


def network_and_drive(units=5, signals=2, steps=7):
    network = BalancedRNN(units, signals, signals, key=jax.random.key(1), gain=1.0, input_scale=0.5)
    J = network.J + 0.3 * jnp.eye(units)  # which must not matter
    network = eqx.tree_at(lambda n: (n.J, n.b), network, (J, jnp.linspace(-0.5, 0.5, units)))
    signals_key, noise_key, x_key = jax.random.split(jax.random.key(2), 3)
    drive = jax.random.normal(signals_key, (steps, signals)), jax.random.normal(noise_key, (steps, units))
    return network, *drive, jax.random.normal(x_key, (units,))


def test_one_step_is_the_equation():
    network, signals, noise, x = network_and_drive()
    J, ws, wr, b = (np.asarray(leaf) for leaf in (network.J, network.ws, network.wr, network.b))
    J = J - np.diag(np.diag(J))
    current = -x + J @ np.maximum(x, 0) + b + ws @ signals[0] / 2
    expected = np.asarray(x + 0.2 * current + math.sqrt(0.2) * noise[0])
    np.testing.assert_allclose(network((signals[0], noise[0]), x), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(network.readout(x[None])[0], wr @ np.maximum(x, 0) / 5, rtol=0, atol=1e-15)


def test_the_orbit_and_its_gradient_are_those_of_single_steps():
    network, signals, noise, x = network_and_drive()

    def by_steps(network, signals, noise, x):
        return lax.scan(lambda x, drive: (network(drive, x),) * 2, x, (signals, noise))[1]

    weights = jax.random.normal(jax.random.key(3), (7, 5))
    orbits = [jax.jit(f)(network, signals, noise, x) for f in (BalancedRNN.orbit, by_steps)]
    np.testing.assert_allclose(*orbits, rtol=0, atol=1e-14)
    gradients = [
        jax.jit(jax.grad(lambda *args, f=f: (f(*args) * weights).sum(), argnums=(0, 1, 2, 3)))(
            network, signals, noise, x
        )
        for f in (BalancedRNN.orbit, by_steps)
    ]
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), *gradients)
    assert (jnp.diagonal(gradients[0][0].J) == 0).all()
    assert (gradients[0][0].J != 0).sum() == 20


def test_exponents_of_a_network_whose_units_are_all_active():
    """J = -(c/N) (1 1^T - I) has the eigenvalues -c (N-1)/N, once, and c/N; under a large signal and little noise all
    x stay positive, and the Jacobian of a step is (1 - dt) I + dt J, whatever the noise."""
    c, units, dt = 3.0, 6, 0.2
    network = BalancedRNN(units, key=jax.random.key(0), gain=0.0, mean_coupling=-c, sigma=0.01)
    inputs = jnp.full((20, 1), 50.0), jax.random.normal(jax.random.key(1), (20, units))
    x = network.relax(network.zeros(), jnp.array([50.0]), 100)
    exponents = fl.lyapunov_spectrum(lambda x, drive: network(drive, x), inputs, state=x, transient=10).exponents
    expected = [math.log(1 - dt + dt * c / units)] * (units - 1) + [
        math.log(abs(1 - dt - dt * c * (units - 1) / units))
    ]
    np.testing.assert_allclose(np.sort(exponents)[::-1], expected, rtol=0, atol=1e-6)


def test_the_loss_is_the_sum_written_out():
    model = balance.draw_model(SMALL)
    batch = balance.test_batch(SMALL)
    network, total = eqx.filter_jit(model.network), 0.0
    for sequence in range(2):
        x = model.x0
        for t in range(10):
            x = network((batch.tracking.inputs[sequence, t], batch.noise[sequence, t]), x)
            if t + 1 >= 2:
                r = model.network.wr @ jnp.maximum(x, 0) / 8
                total += ((r - batch.tracking.targets[sequence, t]) ** 2).sum() + 1e-4 * (x**2).sum()
    loss = balance.TrackingLoss(1e-4)
    (value, _), gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))(model, batch)
    np.testing.assert_allclose(value, total / 2 / 10 / 2, rtol=0, atol=1e-14)
    assert not gradient.x0.any()
    assert not gradient.network.b.any()
    assert not jnp.diagonal(gradient.network.J).any()
    assert all(leaf.any() for leaf in (gradient.network.J, gradient.network.ws, gradient.network.wr))


def test_clusters_and_couplings_of_blocks():
    """Three blocks, mixed up: coupling -3 within them, -1 between, 0 on the diagonal, as columns of J tell."""
    labels = np.array([0, 1, 0, 2, 1, 1, 2, 0, 2, 0, 2, 1, 0, 0, 2])
    J = np.where(labels[:, None] == labels[None, :], -3.0, -1.0)
    np.fill_diagonal(J, 0)
    np.testing.assert_array_equal(find_clusters(J, 3), labels)
    by_columns = np.random.default_rng(0).normal(size=(15, 3))[:, labels]  # equal columns, rows that all differ
    np.testing.assert_array_equal(find_clusters(by_columns, 3), labels)
    assert (find_clusters(by_columns.T, 3) != labels).any()
    sizes = np.bincount(labels)
    within, between = mean_couplings(J, labels)
    assert within == pytest.approx(-3 * (sizes * (sizes - 1)).sum() / (sizes**2).sum(), abs=1e-14)
    assert between == pytest.approx(-1, abs=1e-14)
    assert tightness(2 * J, J) == pytest.approx(2, abs=1e-15)
    assert math.isnan(mean_couplings(J, find_clusters(J, 1))[1])
    with pytest.raises(ValueError, match="clusters must be at least 1 and at most units=15, got clusters=16"):
        find_clusters(J, 16)


def test_eigenvalues_of_the_active_part():
    """J = -u 1^T has rank one: with m units active, J diag(phi') has the eigenvalue -sum of u over them, and zeros."""
    u = np.arange(1.0, 7)
    x = np.array([[1.0, -1, 2, -1, -1, 3], [1.0, 1, 1, 1, 1, 1]])
    values = eigenvalues(-np.outer(u, np.ones(6)), x)
    np.testing.assert_allclose(values[:, 0], [-(1 + 3 + 6), -21], rtol=0, atol=1e-12)
    np.testing.assert_allclose(values[:, 1:], 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(outliers(values, 2), [[-10, 0], [-21, 0]], rtol=0, atol=1e-12)


def test_correlation_of_weights():
    ws = np.array([[1.0, 0], [2, 1], [3, 0]])
    wr = np.array([[5.0, 7, 9], [0, 2, 0], [-4, -2, 0]])
    expected = [[1, 0], [0, 1], [1, 0]]  # a row for each readout, a column for each input
    np.testing.assert_allclose(weight_correlations(ws, wr), expected, rtol=0, atol=1e-15)
    mixed = np.array([[1.0, 2, 4], [3, 1, 1], [0, 5, 2]])
    expected = [[np.corrcoef(readout, input)[0, 1] for input in ws.T] for readout in mixed]
    assert not np.allclose(expected[0][1], expected[1][0])
    np.testing.assert_allclose(weight_correlations(ws, mixed), expected, rtol=0, atol=1e-15)


def test_without_scikit_learn_clusters_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = r"^clusters of neurons need the extra \[lab\]: pip install 'flossing\[lab\]'$"
    with pytest.raises(ValueError, match=message):
        require_clustering()
    with pytest.raises(ValueError, match=message):
        balance.build(SMALL)
    balance.build(SMALL.with_values(signals=1))


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("chunk", [2, 100])
def test_renewal_falls_on_its_epochs_whatever_the_chunks(tmp_path, chunk):
    """From epoch 4 on, the initial state is the relaxed state under the weights of epoch 4; again from epoch 8 on."""
    config = SMALL.with_values(relax_every=4, epochs=10, chunk=chunk, snapshots_every=2, test_every=10)
    done = run(config, tmp_path / "run")
    start = balance.draw_model(config)
    at = {epoch: with_parameters(start, read_arrays(path)) for (epoch, _), path in done.snapshots.items()}
    relax = balance._make_relax(config)
    before = start
    for epoch in sorted(epoch for epoch in at if epoch % 4 == 0 and epoch):
        expected = relax(balance.BalanceModel(at[epoch].network, before.x0))
        np.testing.assert_allclose(at[epoch].x0, expected.x0, rtol=1e-12)
        before = at[epoch]
    np.testing.assert_array_equal(load_model(done).x0, before.x0)
    assert done.metrics("training")["epoch"].tolist() == list(range(1, 11))


def test_the_plateau_ends_after_it_began():
    """An error that falls at once, and rises again: no test before EARLY counts."""
    epoch = EARLY * np.arange(5) // 2
    test = {"epoch": epoch, "test_error": np.array([1.0, 0.1, 1.0, 0.6, 0.0])}
    assert plateau_end(test) == 2 * EARLY
