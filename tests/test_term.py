"""Flossing as a term of a training loss of one's own: its value, its gradient, when it is due, bad input."""

from itertools import combinations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl

pytestmark = pytest.mark.usefixtures("optax_promotion")

QUICK = {"preflossing": 0, "k": 3, "window": 8, "report": False}
INPUTS = jax.random.normal(jax.random.key(9), (4, 10, 2))


def gru():
    return eqx.nn.GRUCell(2, 6, key=jax.random.key(0))


@pytest.mark.parametrize("sequences", [1, 3, 4])
def test_value_and_gradient(sequences):
    """The weighted mean squared exponent of sequences of the batch, over the window, and its gradient."""
    flosser = fl.Flosser(**QUICK, term=fl.FlossingTerm(2.5, every=3), sequences=sequences, target=-0.1)
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(flosser.term))(gru(), INPUTS, jnp.asarray(6))
    key = jax.random.split(jax.random.key(0))[0]

    def direct(cell, rows):
        flossing = fl.Flossing(cell, INPUTS[rows, :8], k=3, key=key, batched=True, target=-0.1)
        exponents = flossing.exponents(cell, jax.random.key(0))
        return 2.5 * jnp.mean((exponents + 0.1) ** 2)

    run = eqx.filter_jit(eqx.filter_value_and_grad(direct))
    found = [run(gru(), jnp.array(rows)) for rows in combinations(range(4), sequences)]
    (expected,) = [g for v, g in found if abs(float(v - value)) < 1e-12]
    for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_inside_compiled_loops():
    """One program serves all steps; the term is zero where it is not due, and draws other sequences each time."""
    flosser, traced = fl.Flosser(**QUICK, term=fl.FlossingTerm(2.0, every=3)), []

    @eqx.filter_jit
    def value_and_gradient(cell, step):
        traced.append(step)
        return eqx.filter_value_and_grad(flosser.term)(cell, INPUTS, step)

    found = [value_and_gradient(gru(), jnp.asarray(step)) for step in range(1, 10)]
    values = np.array([value for value, _ in found])
    norms = np.array([optax.tree.norm(gradient) for _, gradient in found])
    np.testing.assert_array_equal(np.flatnonzero(values) + 1, [3, 6, 9])
    np.testing.assert_array_equal(np.flatnonzero(norms) + 1, [3, 6, 9])
    assert len(traced) == 1 and len(set(values.tolist())) > 2

    def train(cell, step):
        value, gradient = eqx.filter_value_and_grad(flosser.term)(cell, INPUTS, step)
        return eqx.apply_updates(cell, jax.tree_util.tree_map(lambda g: -0.1 * g, gradient)), value

    _, scanned = jax.jit(lambda cell: jax.lax.scan(train, cell, jnp.arange(1, 10)))(gru())
    assert scanned[2] == pytest.approx(values[2], rel=1e-12) and scanned[5] < values[5]


def test_reaches_the_flossed_leaves_alone():
    flosser = fl.Flosser(**QUICK, term=fl.FlossingTerm(every=1), where=lambda cell: cell.weight_hh)
    gradient = eqx.filter_grad(flosser.term)(gru(), INPUTS, 1)
    assert float(jnp.abs(gradient.weight_hh).max()) > 0 == float(jnp.abs(gradient.weight_ih).max())


def test_own_loss_and_start():
    """A loss of one's own, along states that sequences start from."""
    start = jnp.linspace(-0.5, 0.5, 6)
    term = fl.FlossingTerm(2.0, every=1, loss=lambda measured: jnp.sum(measured.states()[:, 0]))
    flosser = fl.Flosser(**QUICK, term=term, sequences=4)
    value = flosser.term(gru(), INPUTS, 1, initial=start)
    expected = sum(2.0 * jnp.sum(gru()(sequence[0], start)) for sequence in INPUTS)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({}, INPUTS, "term must be given to the Flosser, as term=fl.FlossingTerm"),
        ({"term": fl.FlossingTerm()}, INPUTS[:, :5], "inputs must have axes .* at least the 8 steps"),
        ({"term": fl.FlossingTerm(), "k": 7}, INPUTS, "k must be an integer from 1 to 6"),
    ],
)
def test_bad_input(options, inputs, message):
    flosser = fl.Flosser(**QUICK | options)
    with pytest.raises(ValueError, match=message):
        flosser.term(gru(), inputs, 1)


def test_a_loss_of_exponents_is_no_loss_of_flossing():
    with pytest.raises(ValueError, match="term.loss must be .* got flossing_loss, which takes exponents"):
        fl.Flosser(**QUICK, term=fl.FlossingTerm(loss=fl.flossing_loss))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight must be a positive number, got weight=-1.0"),
        ({"every": 0}, "every must be an integer of at least 1, got every=0"),
    ],
)
def test_a_term_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        fl.FlossingTerm(**options)


def test_an_optimiser_that_uses_the_loss_gets_that_with_the_term():
    """`value`, `grad` and `value_fn` belong together, as a line search needs."""
    seen = []

    def update(gradient, state, parameters, *, value, grad, value_fn, **_):
        expected, slope = jax.value_and_grad(value_fn)(parameters)
        gaps = jax.tree_util.tree_map(lambda a, b: jnp.max(jnp.abs(a - b)), (expected, slope), (value, grad))
        jax.debug.callback(lambda gaps: seen.append(max(map(float, jax.tree.leaves(gaps)))), gaps)
        return jax.tree_util.tree_map(jnp.zeros_like, gradient), state

    optimiser = optax.GradientTransformationExtraArgs(lambda parameters: (), update)
    flossing = fl.Flossing(gru(), INPUTS[0], k=3, optimiser=optimiser, loss=fl.losses.exponents, target=-1.0)
    state = fl.init_training(gru(), optimiser, flossing)
    chunks = fl.train(
        state,
        loss=lambda model, batch: (sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(model)), {}),
        batch=lambda key: jnp.zeros(()),
        optimiser=optimiser,
        epochs=2,
        flossing=flossing,
        schedule=fl.schedules.preflossing(2),
        term=fl.FlossingTerm(2.0, every=1),
    )
    for _ in chunks:
        pass
    jax.effects_barrier()
    assert len(seen) == 4 and max(seen) < 1e-12
    compiled = eqx.filter_jit(flossing.update)
    norm = compiled(gru(), flossing.init(gru()), jax.random.key(0))[2].gradient_norm
    assert norm > 0.1  # so that the gradient was clipped
