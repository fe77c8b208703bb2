"""Dimension, entropy rate, participation ratio and effective rank, against hand-computed and published values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.90563, 0.0, -14.57219], 2.06215),  # Lorenz (Sprott)
        ([0.419217, -1.623190], 1.258267),  # Henon (Sprott)
        ([0.0714, 0.0, -5.3943], 2.013236),  # Rossler
        ([-0.1, -1.0], 0.0),
        ([0.0, -1.0], 1.0),
        ([0.5, -0.5, -2.0], 2.0),
        ([0.5, 0.1], 2.0),
        ([0.3, -0.1, -jnp.inf], 2.0),
    ],
)
def test_kaplan_yorke_dimension(exponents, dimension):
    assert float(fl.kaplan_yorke_dimension(jnp.array(exponents))) == pytest.approx(dimension, abs=1e-5)


def test_entropy_rate():
    assert float(fl.entropy_rate(jnp.array([0.3, 0.2, 0.0, -5.0]))) == pytest.approx(0.5)
    assert float(fl.entropy_rate(jnp.array([-0.3, -jnp.inf]))) == 0.0


def test_participation_ratio_and_effective_rank():
    assert float(fl.participation_ratio(jnp.ones(7))) == pytest.approx(7)
    assert float(fl.participation_ratio(jnp.array([1e200, 0.0, 0.0]))) == pytest.approx(1)
    assert float(fl.participation_ratio(jnp.array([2.0, 1.0]))) == pytest.approx(9 / 5)
    assert float(fl.effective_rank(jnp.ones(7))) == pytest.approx(7)
    assert float(fl.effective_rank(jnp.array([1.0, 0.0]))) == pytest.approx(1)
    weights = np.array([0.7, 0.3])
    assert float(fl.effective_rank(jnp.asarray(5 * weights))) == pytest.approx(
        np.exp(-(weights * np.log(weights)).sum())
    )


def test_what_is_not_a_number_has_no_dimension():
    assert np.isnan(fl.kaplan_yorke_dimension(jnp.array([1.0, jnp.nan, -2.0])))


@pytest.mark.parametrize(
    ("exponents", "gradient"), [([1.0, -2.0], [0.5, 0.25]), ([1.0, 0.0], [0, 0]), ([-1.0, -2.0], [0, 0])]
)
def test_the_dimension_has_a_gradient(exponents, gradient):
    np.testing.assert_allclose(jax.grad(fl.kaplan_yorke_dimension)(jnp.array(exponents)), gradient, atol=1e-12)
