"""Covariant vectors, long-term Jacobian, backpropagated gradients and errors in torch: the numbers of the JAX side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._spectra.statistics import batch_means
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

nn = torch.nn
flt = pytest.importorskip("flossing.pytorch")


def pair(kind):
    """A module of torch, or a step, and the same in JAX, with one state of each."""
    rng = np.random.default_rng(0)
    W, U, b = rng.normal(size=(5, 5)) / 2, rng.normal(size=(5, 2)), rng.normal(size=5)
    if kind == "step":
        V, C = torch.tensor(W), torch.tensor(U)
        return (
            (lambda h, s: torch.tanh(V @ h + C @ s)),
            torch.full((5,), 0.1, **DOUBLE),
            (lambda h, s: jnp.tanh(W @ h + U @ s)),
            jnp.full(5, 0.1),
        )
    module = nn.RNN(2, 5, **DOUBLE)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), (U, W, b, 0 * b), strict=True):
            parameter.copy_(torch.tensor(value))
    return module, torch.full((1, 5), 0.1, **DOUBLE), lambda h, s: jnp.tanh(W @ h + U @ s + b), jnp.full(5, 0.1)


@pytest.mark.parametrize("kind", ["module", "step"])
def test_numbers_of_the_jax_side(kind):
    model, state, step, start = pair(kind)
    inputs = np.random.default_rng(1).normal(size=(40, 2))
    sequence, basis = torch.tensor(inputs), np.random.default_rng(2).normal(size=(5, 3))

    jacobian = flt.long_term_jacobian(model, sequence, state=state, horizons=[1, 7, 40])
    expected = fl.long_term_jacobian(step, inputs, state=start, horizons=[1, 7, 40])
    np.testing.assert_allclose(jacobian.log_singular_values, expected.log_singular_values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(jacobian.log_condition(3), expected.log_condition(3), rtol=0, atol=1e-10)

    vectors = flt.covariant_vectors(model, sequence, state=state, basis=basis)
    expected = fl.covariant_vectors(step, inputs, state=start, basis=basis)
    for name in ("exponents", "log_growth", "vectors", "states"):
        np.testing.assert_allclose(getattr(vectors, name), getattr(expected, name), rtol=0, atol=1e-10)
    angles = flt.covariant_vectors(model, sequence, state=state, basis=basis, measure=fl.angles_between)
    np.testing.assert_allclose(angles.measured, jax.vmap(fl.angles_between)(expected.vectors), rtol=0, atol=1e-8)

    def loss(states):
        return (states[-1] ** 2).sum() + (states[7] ** 3).sum()

    norms = flt.backpropagated_norms(model, sequence, loss, state=state)
    expected = fl.backpropagated_norms(step, inputs, loss, state=start)
    np.testing.assert_allclose(norms.log_norm, expected.log_norm, rtol=0, atol=1e-10)
    np.testing.assert_allclose(norms.norm(), expected.norm(), rtol=1e-10)
    assert (norms.horizon(1e-3), norms.finite_steps) == (expected.horizon(1e-3), expected.finite_steps)


@pytest.mark.slow
def test_lstm_and_float32():
    """The state of an LSTM has 2 N coordinates; results have the dtype of the state, whatever JAX is configured to."""
    for dtype in (torch.float32, torch.float64):
        module, inputs = nn.LSTM(2, 3, dtype=dtype), torch.randn(30, 2, dtype=dtype)
        spectrum = flt.lyapunov_spectrum(module, inputs, k=6)
        with jax.enable_x64(False):
            vectors = flt.covariant_vectors(module, inputs, backward_transient=0)
            jacobian = flt.long_term_jacobian(module, inputs, horizons=[30])
            condition = jacobian.log_condition()
        kind = np.dtype(str(dtype).removeprefix("torch."))
        assert vectors.vectors.shape == (17, 6, 6)
        assert {vectors.vectors.dtype, jacobian.log_singular_values.dtype, condition.dtype} == {kind}
        np.testing.assert_allclose(vectors.exponents, spectrum.exponents.detach(), atol=0.3)


def test_uncertainty():
    module, inputs = nn.GRU(2, 4, **DOUBLE), torch.randn(2000, 2, **DOUBLE)
    spectrum = flt.lyapunov_spectrum(module, inputs, k=3, interval=2)
    found = spectrum.uncertainty()
    expected = batch_means(jnp.asarray(spectrum.log_growth.detach().numpy()), 2.0)
    np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=1e-12)
    np.testing.assert_allclose(found.half_width(), expected.half_width(), rtol=1e-12)
    assert found.standard_error.dtype == np.float64
    with pytest.raises(ValueError, match="batches must leave 8 blocks"):
        flt.lyapunov_spectrum(module, inputs[:100], k=3).uncertainty()


def test_a_step_that_cannot_be_batched():
    """A branch on a value: Jacobians one by one."""
    W = torch.randn(3, 3, **DOUBLE)

    def step(h, s):
        return torch.tanh(W @ h) if float(h.sum()) > 0 else torch.tanh(W @ h + 1)

    found = flt.long_term_jacobian(step, None, state=torch.ones(3, **DOUBLE), steps=4)
    h, product = torch.ones(3, **DOUBLE), torch.eye(3, **DOUBLE)
    for _ in range(4):
        product = torch.autograd.functional.jacobian(lambda h: step(h, None), h) @ product
        h = step(h, None)
    expected = torch.linalg.svdvals(product).log()
    np.testing.assert_allclose(found.log_singular_values[-1], expected, rtol=0, atol=1e-10)


def test_bad_input():
    module = nn.RNN(2, 3, **DOUBLE)
    with pytest.raises(ValueError, match="inputs must be a single sequence, got a batch"):
        flt.long_term_jacobian(module, torch.randn(9, 4, 2, **DOUBLE))
    with pytest.raises(ValueError, match="k must be an integer from 1 to 3"):
        flt.covariant_vectors(module, torch.randn(9, 2, **DOUBLE), k=4)
    with pytest.raises(ValueError, match="loss must return a scalar tensor"):
        flt.backpropagated_norms(module, torch.randn(9, 2, **DOUBLE), lambda h: h)
    with pytest.raises(ValueError, match="horizons must be increasing integers from 1 to 9"):
        flt.long_term_jacobian(module, torch.randn(9, 2, **DOUBLE), horizons=[10])
    with pytest.raises(ValueError, match="must be finite"):
        flt.long_term_jacobian(lambda h, s: h * 1e200, None, state=torch.ones(2, **DOUBLE), steps=4)
