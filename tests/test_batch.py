"""Exponents over a batch equal those of each sequence, with their mean and standard deviation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing.cells import VanillaRNN

KEY = jax.random.key(4)
CELL = VanillaRNN(6, key=KEY)
INPUTS = jax.random.normal(jax.random.key(5), (3, 30, 1))
STATES = jnp.tanh(jax.random.normal(jax.random.key(6), (3, 6)))


class Scaled(eqx.Module):
    factor: jax.Array

    def __call__(self, s, h):
        return self.factor * h


def step(h, s):
    return CELL(s, h)


@pytest.mark.parametrize("batched", [False, True])
def test_each_sequence_on_its_own(batched):
    options = {"k": 4, "key": KEY, "transient": 7, "interval": 2}
    spectra = fl.lyapunov_spectrum(step, INPUTS, state=STATES if batched else STATES[0], batched=True, **options)
    alone = [fl.lyapunov_spectrum(step, INPUTS[i], state=STATES[i * batched], **options) for i in range(3)]
    exponents = np.stack([spectrum.exponents for spectrum in alone])
    np.testing.assert_allclose(spectra.exponents, exponents, rtol=0, atol=1e-13)
    np.testing.assert_allclose(spectra.mean(), exponents.mean(0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(spectra.std(), exponents.std(0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(spectra.standard_error(), exponents.std(0, ddof=1) / np.sqrt(3), rtol=1e-9)
    np.testing.assert_allclose(spectra.state, np.stack([s.state for s in alone]), rtol=0, atol=1e-13)


def test_an_autonomous_system_from_many_states():
    """x -> x^2 / 2 from x = a: the derivative at step t is x_t = 2 (a/2)^(2^t), so that lambda is their mean log."""
    starts = jnp.asarray([[1.5], [1.9]])
    spectra = fl.lyapunov_spectrum(lambda x, _: x * x / 2, None, state=starts, batched=True, steps=3, transient=0)
    expected = np.log(2) + np.log(np.asarray(starts) / 2) * (1 + 2 + 4) / 3
    np.testing.assert_allclose(spectra.exponents, expected, rtol=1e-12)


def test_a_module_may_be_cached():
    """A module with the same structure reuses the compiled program, with its new numbers."""
    first = fl.lyapunov_spectrum(Scaled(jnp.asarray(0.5)), INPUTS, batched=True, state=jnp.ones(2), transient=0)
    second = fl.lyapunov_spectrum(Scaled(jnp.asarray(0.25)), INPUTS, batched=True, state=jnp.ones(2), transient=0)
    np.testing.assert_allclose(first.exponents, np.log(0.5), rtol=1e-12)
    np.testing.assert_allclose(second.exponents, np.log(0.25), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((STATES, INPUTS[:2]), {"batched": True}, "step must accept a state like float64\\[3,6\\]"),
        ((jnp.asarray(1.0), None), {"steps": 3}, "state must have a leading batch axis"),
        ((STATES[0], jnp.asarray(1.0)), {}, "inputs must have a leading batch axis"),
        ((STATES[0], INPUTS), {"transient": 30}, "transient must be an integer from 0 to 29"),
    ],
)
def test_bad_input(arguments, options, message):
    state, inputs = arguments
    with pytest.raises(ValueError, match=message):
        fl.lyapunov_spectrum(step, inputs, state=state, **({"batched": True} | options))


def test_the_sequence_that_escapes_is_named():
    inputs = INPUTS.at[1, 4].set(1e200)
    with pytest.raises(ValueError, match="in sequence 1, block "):
        fl.lyapunov_spectrum(lambda x, s: x * s * s * s, inputs, state=jnp.ones(1), batched=True, transient=0)


def test_a_step_that_forgets_its_state_is_said():
    with pytest.warns(UserWarning, match="all exponents are -inf: step forgets its state"):
        fl.lyapunov_spectrum(lambda h, s: jnp.tanh(s) + 0 * h, INPUTS[0], state=jnp.ones(1), transient=0)


def test_the_methods_of_each_are_of_each_sequence():
    inputs = jax.random.normal(jax.random.key(7), (4, 60, 1))
    options = {"k": 3, "transient": 5, "interval": 2}
    each = fl.lyapunov_spectrum(step, inputs, state=STATES[0], batched=True, **options)
    error = each.uncertainty(batches=3)
    for i in range(4):
        alone = fl.lyapunov_spectrum(step, inputs[i], state=STATES[0], **options)
        np.testing.assert_allclose(each.running_mean()[i], alone.running_mean(), rtol=0, atol=1e-11)
        np.testing.assert_allclose(each.all_log_growth()[i], alone.all_log_growth(), rtol=0, atol=1e-11)
        np.testing.assert_allclose(error.standard_error[i], alone.uncertainty(batches=3).standard_error, rtol=1e-9)
        np.testing.assert_array_equal(error.is_upper_bound[i], alone.uncertainty(batches=3).is_upper_bound)
