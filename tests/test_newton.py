"""Newton's iterations on a trajectory: the states are those of the steps, and the counts those that theory gives."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing_lab.paper.calculations.newton import newton_of_flossed, newton_through_training
from flossing_lab.paper.figures import newton as figure
from flossing_lab.runs.files import plain


def logistic(x, _):
    return 4 * x * (1 - x)


def test_a_linear_network_needs_one_iteration_and_one_to_confirm_it():
    A = jax.random.normal(jax.random.key(0), (5, 5)) / 3
    inputs = jax.random.normal(jax.random.key(1), (80, 5))
    found = fl.newton_iterations(lambda h, s: A @ h + s, inputs, state=jnp.ones(5))
    assert found.count == 2 and found.converged and repr(found) == "NewtonIterations(2 iterations, converged)"
    h = jnp.ones(5)
    for s in inputs:
        h = A @ h + s
    np.testing.assert_allclose(found.state, h, atol=1e-12)
    assert np.isnan(found.changes[2:]).all() and found.changes[1] < 1e-12


@pytest.mark.parametrize(
    "cell", [fl.cells.GRU(6, 2, key=jax.random.key(0)), fl.cells.LSTM(6, 2, key=jax.random.key(0))]
)
def test_the_last_state_is_that_of_the_steps(cell):
    """Also with a state of several leaves, from another start, in float32 within its tolerance."""
    inputs = jax.random.normal(jax.random.key(1), (60, 2))
    state = jax.tree.map(lambda x: x + 0.3, cell.zeros())
    found = fl.newton_iterations(cell, inputs, state=state)
    wanted = fl.lyapunov_spectrum(cell, inputs, state=state, k=1).state
    assert found.converged and found.count < 15
    for ours, theirs in zip(jax.tree.leaves(found.state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (cell, inputs, state))
    found = fl.newton_iterations(*single[:2], state=single[2])
    assert found.converged
    for ours, theirs in zip(jax.tree.leaves(found.state), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_chaos_needs_as_many_iterations_as_steps_and_contraction_few():
    """Each iteration makes at least one more step exact; along a chaotic orbit hardly more than that."""
    chaotic = [fl.newton_iterations(logistic, None, state=jnp.array([0.3]), steps=n) for n in (20, 40, 80)]
    counts = [int(each.count) for each in chaotic]
    assert counts[2] > 1.5 * counts[1] > 2 * counts[0] and all(
        c <= n + 1 for c, n in zip(counts, (20, 40, 80), strict=True)
    )
    x = 0.3
    for _ in range(40):
        x = 4 * x * (1 - x)
    np.testing.assert_allclose(chaotic[1].state, [x], atol=1e-3)  # 2^40 times the rounding

    contracting = [
        fl.newton_iterations(lambda h, s: 0.5 * jnp.tanh(h) + s, jnp.ones((n, 1)), state=jnp.zeros(1)) for n in (20, 80)
    ]
    assert contracting[0].count == contracting[1].count < 8


def test_the_limit_and_bad_arguments():
    stopped = fl.newton_iterations(logistic, None, state=jnp.array([0.3]), steps=40, most=3)
    assert stopped.count == 3 and not stopped.converged
    assert repr(stopped) == "NewtonIterations(3 iterations, not converged)"
    with pytest.raises(ValueError, match="state must hold real or complex numbers alone"):
        fl.newton_iterations(lambda h, _: (h[0] / 2, h[1] + 1), None, state=(jnp.ones(2), jnp.array(0)), steps=5)
    with pytest.raises(ValueError, match="most must be an integer of at least 1, got most=0"):
        fl.newton_iterations(logistic, None, state=jnp.array([0.3]), steps=5, most=0)
    with pytest.raises(ValueError, match="tolerance must be a positive number, got tolerance=-1"):
        fl.newton_iterations(logistic, None, state=jnp.array([0.3]), steps=5, tolerance=-1.0)


@pytest.mark.parametrize("step", [lambda h, _: 2 * h + 1, lambda h, _: jnp.log(h), lambda h, _: h * h + 1])
def test_orbits_that_escape_are_refused(step):
    with pytest.raises(ValueError, match="escape|finite"):
        fl.newton_iterations(step, None, state=jnp.array([3.0]), steps=1200)


def test_it_can_be_compiled_and_batched():
    inputs = jax.random.normal(jax.random.key(1), (3, 30, 2))
    cell = fl.cells.GRU(6, 2, key=jax.random.key(0))
    together = jax.jit(jax.vmap(lambda s: fl.newton_iterations(cell, s)))(inputs)
    assert together.count.tolist() == [int(fl.newton_iterations(cell, s).count) for s in inputs]
    assert repr(together) == "NewtonIterations(3 of 3 sequences converged)"


class Stored:
    """The results of a figure: `made` gives the arrays of a calculation."""

    def __init__(self, made):
        self.calculation = made

    def runs(self, spec):
        return []


def fake(calculation):
    """Two gains, one contracting and one chaotic; flossing to 0 costs iterations, to -0.1 saves the chaotic some."""
    a = calculation.arguments
    if calculation.function == "newton_of_flossed":
        n, lengths = 8, len(a["lengths"])
        exponent = np.array([[-0.5, 0.4], [-0.1, -0.05], [-0.2, -0.1]])[..., None] + np.linspace(0, 0.01, n)
        count = np.array([[10, 90], [40, 100], [20, 40]])[..., None] + np.arange(n)
        return {"exponent": exponent, "count": np.repeat(count[..., None], lengths, -1)}
    shape = (2, 8, len(a["epochs"]))
    count = np.array([10.0, 30.0])[:, None, None] + np.arange(8)[:, None] + np.zeros(shape)
    return {"count": count, "exponent": np.zeros(shape), "accuracy": np.zeros(shape[:2])}


def test_the_figure_judges_both_kinds_of_networks():
    data = json.loads(json.dumps(plain(figure.collect(Stored(fake), "tiny")), allow_nan=False))
    assert [claim.verdict for claim in figure.claims(data)] == ["holds", "fails", "holds", "holds", "holds"]
    assert [claim.n for claim in figure.claims(data)] == [16, 8, 8, 8, 8]
    assert len(figure.draw(data).get_axes()) == 4
    nothing = figure.collect(Stored(lambda calculation: None), "tiny")
    assert {claim.verdict for claim in figure.claims(nothing)} == {"not run"} and figure.draw(nothing).get_axes()


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_the_calculations_of_the_figure():
    """Counts of drawn networks are those of their weights; a chaotic one needs more than a contracting one."""
    size = {"units": 6, "gains": [0.3, 5.0], "k": 2, "epochs": 2, "window": 8, "learning_rate": 0.01}
    found = newton_of_flossed(first=1, networks=1, targets=[0.0, -0.1], lengths=[20, 60], **size)
    assert found["count"].shape == (3, 2, 1, 2) and found["exponent"].shape == (3, 2, 1)
    drawn = found["count"][0, :, 0, 1]
    assert found["exponent"][0, 0, 0] < -0.5 and drawn[0] < drawn[1] <= 61

    values = {
        "units": 8,
        "batch": 2,
        "steps": 20,
        "flossing_steps": 20,
        "window": 12,
        "k": 4,
        "delay": 2,
        "interval": 1,
    }
    values |= {"preflossing": 3, "singular_values_every": 0, "interval": 1}
    trained = newton_through_training(1, values, [0, 100], ["none", "before"], length=120)
    assert trained["count"].shape == (2, 1, 2) and (trained["count"] > 1).all()
    assert trained["exponent"][0, 0, 0] != trained["exponent"][1, 0, 0]  # before training, and after preflossing
    assert trained["accuracy"].min() >= 0 and trained["accuracy"].max() <= 1
