"""The opponents of flossing in the comparison: what they keep, and penalties against explicit formulas."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing_lab.comparison import opponents
from flossing_lab.comparison.sections import TrialArm
from flossing_lab.comparison.training import Penalised, Settings, train_network
from flossing_lab.runs.trials import Batch

TASK = fl.tasks.TemporalXOR(steps=9, delay=2)
KEY = jax.random.key(3)


@pytest.fixture
def network():
    return fl.cells.Network(fl.cells.VanillaRNN(5, 1, key=KEY), 1, key=jax.random.key(1))


@pytest.fixture
def batch():
    return Batch(TASK, 3)(jax.random.key(2))


def test_the_weights_stay_orthogonal():
    cell = opponents.OrthogonalRNN(7, 2, key=KEY, input_scale=0.5)
    moved = eqx.tree_at(lambda cell: cell.A, cell, cell.A + jax.random.normal(KEY, (7, 7)))
    for each in (cell, moved):
        np.testing.assert_allclose(each.J @ each.J.T, np.eye(7), atol=1e-12)
    assert np.abs(np.angle(np.linalg.eigvals(np.asarray(cell.J)))).max() > 1
    state, input = jax.random.normal(KEY, (7,)), jnp.array([0.3, -1.0])
    np.testing.assert_allclose(moved(input, state), moved.with_task_surrogate()(input, state), atol=1e-12)
    gradient = eqx.filter_grad(lambda cell: cell.with_task_surrogate()(input, state).sum())(moved)
    assert float(jnp.abs(gradient.A).max()) > 1e-3


def test_oscillators_and_identity():
    """The damped step of one oscillator is linear without force; identity weights keep a positive state."""
    cell = opponents.CoupledOscillators(4, 1, key=KEY, dt=0.1, gamma=2.0, epsilon=1.0)
    still = eqx.tree_at(lambda cell: (cell.J, cell.W, cell.ws), cell, (jnp.zeros((4, 4)),) * 2 + (jnp.zeros((4, 1)),))
    y, z = still(jnp.zeros(1), (jnp.ones(4), jnp.ones(4)))
    np.testing.assert_allclose(z, 1 + 0.1 * (-2 - 1))
    np.testing.assert_allclose(y, 1 + 0.1 * z)
    kept = opponents.identity_start(4, 1, key=KEY)(jnp.zeros(1), jnp.arange(4.0))
    np.testing.assert_allclose(kept, jnp.arange(4.0))


def test_tanh_units_are_drawn_as_torch_draws_them():
    cell = opponents.as_torch(64, 3, key=KEY)
    assert 0.9 / 8 < np.abs(cell.J).max() <= 1 / 8 and np.abs(cell.ws).max() <= 1 / 8
    assert 1 / 8 < np.abs(cell.b).max() <= 2 / 8  # two biases


def test_vanishing_gradients_is_its_formula(network, batch):
    """Against Jacobians formed one by one, and gradients of the loss from each state on."""
    J, ws, b = network.cell.J, network.cell.ws, network.cell.b

    def outputs_from(h, inputs):
        found = []
        for s in inputs:
            h = jnp.tanh(J @ h + ws @ s + b)
            found.append(network.readout(h))
        return jnp.stack(found) if found else jnp.zeros((0, 1))

    def loss_from(h, states, trial, t):
        """The loss of a trial as a function of the state after step t."""
        early = jax.lax.stop_gradient(jax.vmap(network.readout)(states[:t]))
        return TASK.score(
            jnp.concatenate([early, network.readout(h)[None], outputs_from(h, trial.inputs[t + 1 :])]), trial
        ).loss

    @jax.jit
    def step(h, s):
        return jnp.tanh(J @ h + ws @ s + b)

    gradient_from, jacobian = jax.jit(jax.grad(loss_from), static_argnums=3), jax.jit(jax.jacobian(step))
    terms = []
    for i in range(3):
        trial = jax.tree_util.tree_map(lambda leaf, i=i: leaf[i], batch)
        states = [jnp.zeros(5)]
        for s in trial.inputs:
            states.append(step(states[-1], s))
        for t in range(9):
            g = np.asarray(gradient_from(states[t + 1], jnp.stack(states[1:]), trial, t))
            back = np.asarray(jacobian(states[t], trial.inputs[t])).T @ g
            terms.append((np.linalg.norm(back) / np.linalg.norm(g) - 1) ** 2)
    penalty = functools.partial(opponents.vanishing_gradients, task=TASK)
    np.testing.assert_allclose(eqx.filter_jit(penalty)(network, batch), np.mean(terms), rtol=1e-8)
    gradient = eqx.filter_jit(eqx.filter_grad(penalty))(network, batch)
    assert float(jnp.abs(gradient.cell.J).max()) > 1e-3
    assert not jnp.any(gradient.readout.weight)


def test_isometry_and_orthogonality(network, batch):
    quiet = fl.cells.VanillaRNN(5, 1, key=KEY, recurrent="orthogonal", input_scale=1e-4, bias_scale=0.0)
    isometric = eqx.tree_at(lambda network: network.cell, network, quiet)
    for penalty in (opponents.one_step_jacobians, opponents.soft_orthogonality):
        assert float(penalty(isometric, batch, TASK)) < 1e-12 < 1e-2 < float(penalty(network, batch, TASK))


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("name", opponents.PENALTIES)
def test_a_penalty_changes_training_and_not_the_test(name):
    settings = Settings(units=5, batch=2, epochs=3, test=8)
    penalty = Penalised(TASK, opponents.PENALTIES[name], 10.0)
    plain, penalised = (
        train_network(TASK, fl.cells.VanillaRNN, 3, TrialArm(), settings, 1, trained=trained)
        for trained in (None, penalty)
    )
    assert plain["curve"] != penalised["curve"]
    assert abs(plain["loss"] - penalised["loss"]) < 0.05
    assert plain["failure"] is penalised["failure"] is None
