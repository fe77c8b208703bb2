"""What cannot be measured or flossed is refused in one line, where it once gave a wrong number or an unclear error."""

import pickle

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
    exponents = eqx.filter_jit(flossing.exponents)
    assert np.isfinite(exponents(gru(), jax.random.key(0))).all()
    assert np.isnan(exponents(gru(), jax.random.wrap_key_data(jnp.array([1, 0], jnp.uint32)))).all()


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


KEY = jax.random.key(0)
CELL, SEQUENCE = fl.cells.VanillaRNN(5, 2, key=KEY), INPUTS[0]
ESCAPES = {"state": jnp.array([2.0]), "steps": 20}


def square(h, s):
    """From 2, its orbit leaves the range of numbers after ten steps."""
    return h * h if s is None else h * h + s


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fl.lyapunov_spectrum(CELL, SEQUENCE, key=0), "key must be a JAX random key"),
        (lambda: fl.covariant_vectors(CELL, SEQUENCE, k=2, key=0), "key must be a JAX random key"),
        (lambda: fl.diagnose(CELL, SEQUENCE, horizon=3, key=0), "key must be a JAX random key"),
        (
            lambda: fl.lyapunov_spectrum(CELL, SEQUENCE, key=jnp.zeros((2, 2), jnp.uint32)),
            "key must be a JAX random key",
        ),
        (
            lambda: fl.floss(CELL, SEQUENCE, flossing_state="history", report=False),
            "flossing_state must be a FlossingState, such as history.state of an earlier call, got a str",
        ),
        (
            lambda: fl.floss(CELL, SEQUENCE, project=lambda model: None, report=False),
            "project must return a model like the one that it is given, got None",
        ),
        (lambda: fl.floss(CELL, SEQUENCE, where="J"), "where must be a function of the model, .* got where='J'"),
        (
            lambda: fl.floss(CELL, SEQUENCE, optimiser=optax.MultiSteps(optax.adam(1e-3), 2)),
            "optimiser must be .* got a MultiSteps: pass its gradient_transformation",
        ),
        (lambda: fl.diagnose(CELL, None, horizon=3), r"inputs must be a sequence \(T, ...\), got inputs=None"),
        (
            lambda: fl.calibrate(lambda g, s: CELL, None, horizon=3),
            r"inputs must be a sequence \(T, ...\), got inputs=None",
        ),
        (lambda: fl.calibrate(CELL, SEQUENCE, horizon=3), "make must be a function make.* got a VanillaRNN"),
        (
            lambda: fl.calibrate(lambda g, s: CELL, SEQUENCE, horizon=3, gains=(1, "a")),
            r"gains must be two positive numbers in ascending order, got gains=\(1, 'a'\)",
        ),
        (lambda: fl.schedules.rule(5), "function must be a function .epoch, measures., got function=5"),
        (lambda: fl.schedules.sum_schedules(None), "schedules must be those of flossing.schedules, got None"),
        (lambda: fl.Flosser(window=8, schedule=5), "schedule must be one of flossing.schedules, or a function"),
        (lambda: fl.Flosser(window=8, term="often"), "term must be a FlossingTerm, .*, got term='often'"),
        (lambda: fl.lyapunov_spectrum(CELL, SEQUENCE, step=3), "step must be a function step.model, state, input. "),
        (lambda: fl.lyapunov_spectrum(CELL, SEQUENCE, batched=2), "batched must be True, False or None, got batched=2"),
        (
            lambda: fl.init_training({"W": np.arange(3)}, optax.sgd(0.1)),
            "model must hold a floating array to train, got none",
        ),
        (lambda: fl.kaplan_yorke_dimension([1, 2]), r"exponents must be floating numbers .* got int64 of shape \(2,\)"),
        (lambda: fl.lyapunov_spectrum(CELL, SEQUENCE, k=2).mean(), "mean is taken over sequences, and this spectrum"),
        (lambda: fl.cells.VanillaRNN(4, key=KEY, recurrent="lapack"), "recurrent must be .* got recurrent='lapack'"),
        (lambda: fl.cells.LeakyRNN(4, key=KEY, nonlinearity="gelu"), "nonlinearity must be .* nonlinearity='gelu'"),
        (lambda: fl.cells.GRU(4, key=KEY, gates="ajar"), "gates must be .* got gates='ajar'"),
        (
            lambda: fl.lyapunov_spectrum(CELL, jnp.stack([SEQUENCE] * 2), batched=True, basis=jnp.ones((3, 5, 2))),
            r"basis must hold one basis for each of 2 sequences, got shape \(3, 5, 2\)",
        ),
        (lambda: fl.newton_iterations(square, None, **ESCAPES), "state .* in the last iteration"),
        (lambda: fl.long_term_jvp(square, None, jnp.ones((1, 1)), **ESCAPES), "the last state must be finite, got inf"),
        (
            lambda: fl.reachability(square, jnp.zeros((20, 1)), state=jnp.array([2.0])),
            "the last state must be finite, got inf",
        ),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_arguments_of_another_kind(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_flosser_and_the_rules_can_be_pickled():
    flosser = pickle.loads(pickle.dumps(fl.Flosser(window=8, k=3, preflossing=7, threshold=0.5)))
    assert flosser.schedule(1, {}) == 7 and flosser.schedule(101, {"reach": 0.4}) == 50
    state = jax.tree_util.tree_map(jnp.asarray, flosser.init(CELL))
    assert all(isinstance(value, (int, float)) for value in state.scalars().values())
    rule = fl.schedules.adaptive(distant="gradient_norm/h", local="gradient_norm/J")
    measures = {"gradient_norm/h": 1e-4, "gradient_norm/J": 1.0}
    assert pickle.loads(pickle.dumps(rule))(101, measures) == rule(101, measures) == 50
