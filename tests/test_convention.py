"""One call convention: a function is a step, a module a cell of its own ecosystem, and `step=` says otherwise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (40, 5))
OURS = fl.cells.GRU(5, 5, key=KEY)  # as many inputs as units: a swap would fit


def exponents(model, **options):
    return fl.lyapunov_spectrum(model, INPUTS, k=3, **options).exponents


@pytest.mark.parametrize("cell", [OURS, eqx.nn.GRUCell(5, 5, key=KEY)], ids=["ours", "Equinox"])
def test_a_cell_is_called_with_the_input_first(cell):
    expected = exponents(lambda h, s: cell(s, h), state=jnp.zeros(5))
    np.testing.assert_allclose(exponents(cell), expected, rtol=1e-12)
    np.testing.assert_allclose(exponents(cell, state=jnp.zeros(5)), expected, rtol=1e-12)


def test_a_cell_of_flax_is_called_with_the_carry_first():
    nnx = pytest.importorskip("flax.nnx")
    cell = nnx.GRUCell(in_features=5, hidden_features=5, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    expected = exponents(lambda h, s: cell(h, s)[0], state=jnp.zeros(5))
    np.testing.assert_allclose(exponents(cell, state=jnp.zeros(5)), expected, rtol=1e-12)


def test_an_lstm_of_equinox_starts_at_zero():
    cell = eqx.nn.LSTMCell(5, 4, key=KEY)
    start = (jnp.zeros(4), jnp.zeros(4))
    np.testing.assert_array_equal(exponents(cell), exponents(cell, state=start))


def test_the_explicit_form():
    """Any pytree of parameters, and a module that is called in another order."""
    weights = {"J": OURS.cell.weight_hh[:5], "W": OURS.cell.weight_ih[:5]}
    step = lambda w, h, s: jnp.tanh(w["J"] @ h + w["W"] @ s)  # noqa: E731
    expected = exponents(lambda h, s: step(weights, h, s), state=jnp.zeros(5))
    np.testing.assert_allclose(exponents(weights, step=step, state=jnp.zeros(5)), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"model must be a cell, .* for a dict of parameters, pass step="):
        exponents(weights, state=jnp.zeros(5))


class StateFirst(eqx.Module):
    cell: fl.cells.GRU

    def __call__(self, state, x):
        return self.cell(x, state)


MENDED = r"got one that can be read in two: .* but its arguments are named \((\w+), (\w+)\): pass step=lambda model"


@pytest.mark.parametrize(
    "model",
    [StateFirst(OURS), lambda input, h: OURS(input, h), lambda x, hidden: OURS(x, hidden)],
    ids=["module", "function", "half"],
)
def test_names_that_contradict_the_order_are_refused(model):
    with pytest.raises(ValueError, match=MENDED) as error:
        exponents(model, state=jnp.zeros(5))
    assert "\n" not in str(error.value)
    # The line it gives settles it.
    order = (lambda m, h, s: m(h, s)) if isinstance(model, StateFirst) else (lambda m, h, s: m(s, h))
    np.testing.assert_allclose(exponents(model, step=order, state=jnp.zeros(5)), exponents(OURS), rtol=1e-12)


def test_where_one_order_alone_fits_names_say_nothing_and_the_error_tells_the_other():
    narrow = fl.cells.GRU(5, 2, key=KEY)
    inputs = INPUTS[:, :2]
    named = lambda state, input: narrow(input, state)  # noqa: E731
    ours = fl.lyapunov_spectrum(narrow, inputs, k=2).exponents
    np.testing.assert_allclose(fl.lyapunov_spectrum(named, inputs, state=jnp.zeros(5), k=2).exponents, ours, rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"step must accept .*a function is called as step\(state, input\).*pass step="
    ):
        fl.lyapunov_spectrum(lambda a, b: narrow(a, b), inputs, state=jnp.zeros(5))


@pytest.mark.usefixtures("optax_promotion")
def test_every_function_takes_it():
    """The cell as it is, its zero state left out."""
    assert fl.covariant_vectors(OURS, INPUTS, k=2).exponents.shape == (2,)
    assert fl.long_term_jacobian(OURS, INPUTS, horizons=[3]).log_condition().shape == (1,)
    assert fl.long_term_jvp(OURS, INPUTS, jnp.eye(5))[0].shape == (5,)
    assert fl.backpropagated_norms(OURS, INPUTS, lambda h: h[-1].sum()).log_norm.shape == (41,)
    flossed, history = fl.floss(OURS, INPUTS, k=2, epochs=2)
    assert history.exponents.shape == (2, 2)
    assert flossed.zeros().shape == (5,)


def test_no_state_where_there_is_no_zero_state():
    with pytest.raises(ValueError, match=r"state must be given for a model without a method zeros\(\), .* for step"):
        fl.lyapunov_spectrum(step, INPUTS)


def step(h, s):
    return h


def test_fewer_steps_than_inputs():
    np.testing.assert_array_equal(exponents(OURS, steps=12), fl.lyapunov_spectrum(OURS, INPUTS[:12], k=3).exponents)


def test_a_batch_of_a_known_cell_needs_no_word_and_continues_from_its_own_bases():
    many = jnp.stack([INPUTS, INPUTS[::-1]])
    whole = fl.lyapunov_spectrum(OURS, many, k=3, transient=0)
    first = fl.lyapunov_spectrum(OURS, many[:, :25], k=3, transient=0)
    then = fl.lyapunov_spectrum(OURS, many[:, 25:], state=first.state, basis=first.basis)
    np.testing.assert_allclose((25 * first.exponents + 15 * then.exponents) / 40, whole.exponents, rtol=1e-9)
    assert then.transient_log_growth.shape == (2, 0, 3)


def test_a_batch_finds_a_long_interval():
    cell = fl.cells.VanillaRNN(8, key=KEY, recurrent="orthogonal", input_scale=0.3)
    many = jax.random.normal(KEY, (3, 200, 1))
    every = fl.lyapunov_spectrum(cell, many, k=4)
    adapted = fl.lyapunov_spectrum(cell, many, k=4, interval="auto")
    assert adapted.interval >= 4
    np.testing.assert_allclose(adapted.exponents, every.exponents, rtol=0, atol=1e-9)
