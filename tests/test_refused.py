"""What cannot be measured or flossed is refused in one line, where it once gave a wrong number or an unclear error."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl

pytestmark = pytest.mark.usefixtures("optax_promotion")

INPUTS = jax.random.normal(jax.random.key(9), (4, 10, 2))
QUICK = {"preflossing": 1, "k": 3, "window": 8, "report": False}


def gru():
    return eqx.nn.GRUCell(2, 6, key=jax.random.key(0))


def trained(model, loss, term=None, sequences=INPUTS, k=3):
    sgd = optax.sgd(0.0)
    flossing = fl.Flossing(model, sequences, k=k, window=8)
    state = fl.init_training(model, sgd, flossing)
    options = {"batch": lambda key: INPUTS, "optimiser": sgd, "flossing": flossing, "term": term}
    return list(fl.train(state, loss=loss, epochs=2, **options))


def test_a_loss_that_is_not_finite_stops_training_also_along_many_sequences():
    with pytest.raises(FloatingPointError, match="training epoch 1: loss is nan"):
        trained(gru(), lambda model, batch: (jnp.nan * model.bias.sum(), {}))


def test_an_infinite_term_stops_training():
    """A network that loses a direction has an exponent of -inf."""
    cell = eqx.tree_at(lambda cell: cell.J, fl.cells.VanillaRNN(6, 2, key=jax.random.key(0)), jnp.zeros((6, 6)))
    term = fl.FlossingTerm(every=1)
    with pytest.raises(FloatingPointError, match="epoch 1: flossing_term is inf.* loses one of the flossed directions"):
        trained(cell, lambda model, batch: (model.b.sum(), {}), term)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda measured: measured.exponents, r"term.loss must return a scalar, got float64\[3\]"),
        (fl.losses.Memory(), "term.loss must have inputs to remember, got inputs without floating numbers"),
    ],
)
def test_losses_of_a_term_are_checked(loss, message):
    model = jnp.eye(3) / 2
    bits = jnp.zeros((10, 3), jnp.int32)
    flosser = fl.Flosser(**QUICK, term=fl.FlossingTerm(loss=loss), step=lambda w, h, s: jnp.tanh(w @ h + s))
    with pytest.raises(ValueError, match=message):
        flosser.term(model, bits[None], 1, initial=jnp.ones(3))


def test_a_transient_beyond_a_sequence_gives_no_exponent():
    """Later draws of lengths may be too short for the transient: their exponents are no zeros."""
    lengths = lambda key: jnp.where(jax.random.key_data(key)[0] == 0, jnp.array([9, 9, 9, 9]), 3)  # noqa: E731
    flossing = fl.Flossing(gru(), INPUTS, k=3, window=10, transient=4, lengths=lengths)
    assert np.isfinite(flossing.exponents(gru(), jax.random.key(0))).all()
    assert np.isnan(flossing.exponents(gru(), jax.random.wrap_key_data(jnp.array([1, 0], jnp.uint32)))).all()


@pytest.mark.parametrize(
    ("inputs", "initial", "message"),
    [
        (INPUTS, jnp.zeros((4, 6)), "initial must be one state for all sequences, got one for each"),
        (None, None, "inputs must be what the model was given, with axes .* got None"),
        ({"a": INPUTS, "b": INPUTS[:3]}, None, "inputs must have one leading batch axis"),
    ],
)
@pytest.mark.parametrize("sequences", [1, 4])
def test_batches_of_a_flosser(inputs, initial, message, sequences):
    flosser = fl.Flosser(**QUICK, sequences=sequences, term=fl.FlossingTerm())
    with pytest.raises(ValueError, match=message):
        flosser.term(gru(), inputs, 1, initial=initial)
    with pytest.raises(ValueError, match=message):
        flosser.update(gru(), flosser.init(gru()), inputs, initial=initial, reach=1.0)


def test_a_reach_that_is_not_finite_is_said():
    flosser = fl.Flosser(**QUICK | {"preflossing": 0, "every": 1})
    cell, state = flosser.update(gru(), flosser.init(gru()), INPUTS)
    with pytest.warns(UserWarning, match="the reach is nan, so it is not known whether to floss"):
        _, state = flosser.update(cell, state, INPUTS, reach=float("nan"))
    assert state.epochs == 0


@pytest.mark.parametrize("due", [-5, 50.0, "many"])
def test_what_a_schedule_returns(due):
    schedule = fl.schedules.rule(lambda step, measures: due, every=1)
    for each in (schedule, fl.schedules.sum_schedules(schedule, fl.schedules.never())):
        with pytest.raises(ValueError, match=r"schedule\(epoch, measures\) must be an integer of at least 0, got"):
            each(2, {})
    assert fl.schedules.rule(lambda step, measures: None, every=1)(2, {}) == 0


@pytest.mark.parametrize("threshold", [0.0, 2.0, -1.0])
def test_thresholds_are_shares(threshold):
    norms = fl.backpropagated_norms(gru(), INPUTS[0], lambda h: (h[-1] ** 2).sum())
    reached = fl.reachability(gru(), INPUTS[0])
    for measure in (norms.horizon, reached.dimension):
        with pytest.raises(ValueError, match=f"threshold must be .*, got threshold={threshold}"):
            measure(threshold)


def test_a_loss_that_ignores_the_end_has_no_horizon():
    norms = fl.backpropagated_norms(gru(), INPUTS[0], lambda h: (h[2] ** 2).sum())
    with pytest.raises(ValueError, match="loss must depend on the last state"):
        norms.horizon(0.1)


def test_a_signal_shorter_than_its_delay_is_never_scored():
    with pytest.raises(ValueError, match=r"steps must be an integer from 18 to .* are not scored.* got steps=17"):
        fl.tasks.MackeyGlass(steps=17)


def test_a_diagnosis_counts_what_it_measured():
    """Of 300 directions that all stay alive, 256 are measured."""
    start = {"recurrent": "orthogonal", "input_scale": 0.01}
    cell = fl.cells.VanillaRNN(300, 1, key=jax.random.key(0), **start)
    found = fl.diagnose(cell, jax.random.normal(jax.random.key(1), (60, 1)), horizon=5, cost=False)
    assert "at least 256 of 300 keep a hundredth" in str(found)
