"""Identities that hold on any finite run, for random linear systems, intervals, k and dtypes."""

import numpy as np
from hypothesis import given, settings, strategies as st

import flossing as fl

STEPS = 18


# Units, k, interval, transient, dtype: few of them, so that the many examples share compiled programs.
KINDS = [(5, 3, 4, 2, "float64"), (4, 4, 6, 0, "float32"), (1, 1, 2, 5, "float64"), (5, 2, 1, 5, "float32")]


@st.composite
def systems(draw):
    """A well-conditioned random matrix for each step, and a basis, of one of the `KINDS`."""
    units, k, interval, transient, dtype = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrices = np.eye(units) + 0.3 * rng.normal(size=(STEPS, units, units)) / np.sqrt(units)
    basis = np.linalg.qr(rng.normal(size=(units, units)))[0]
    options = {"interval": interval, "transient": transient}
    return matrices.astype(dtype), basis.astype(dtype), k, options, rng


def exponents(matrices, basis, **options):
    def step(h, matrix):
        return matrix @ h

    spectrum = fl.lyapunov_spectrum(step, matrices, state=np.zeros(len(basis), basis.dtype), basis=basis, **options)
    assert spectrum.exponents.dtype == basis.dtype
    return np.asarray(spectrum.exponents)


def close(ours, theirs, matrices, factor=1.0):
    # Bound on the rounding error of a run's products, from their condition number.
    tolerance = 2e4 * factor * np.finfo(matrices.dtype).eps
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


few = settings(max_examples=20, deadline=None)


@few
@given(systems())
def test_sum_rule(system):
    matrices, basis, _, options, _ = system
    kept = matrices[options["transient"] :]
    log_volume = np.linalg.slogdet(kept.astype(float))[1].mean()
    close(exponents(matrices, basis, **options).sum(), log_volume, matrices)


@few
@given(systems())
def test_the_first_k_of_the_full_spectrum(system):
    matrices, basis, k, options, _ = system
    close(exponents(matrices, basis[:, :k], **options), exponents(matrices, basis, **options)[:k], matrices)


@few
@given(systems())
def test_the_interval_changes_nothing(system):
    matrices, basis, k, options, _ = system
    every = exponents(matrices, basis[:, :k], **(options | {"interval": 1}))
    close(exponents(matrices, basis[:, :k], **options), every, matrices, factor=100)


@few
@given(systems())
def test_orthogonal_change_of_coordinates(system):
    """h -> O h turns each matrix into O M O^T and the basis into O Q, and leaves every exponent where it was."""
    matrices, basis, k, options, rng = system
    turn = np.linalg.qr(rng.normal(size=basis.shape))[0].astype(basis.dtype)
    turned = exponents(turn @ matrices @ turn.T, (turn @ basis)[:, :k], **options)
    close(turned, exponents(matrices, basis[:, :k], **options), matrices, factor=100)


@few
@given(systems(), st.floats(0.1, 10))
def test_scaling_shifts_every_exponent(system, factor):
    matrices, basis, k, options, _ = system
    factor = matrices.dtype.type(factor)
    scaled = exponents(factor * matrices, basis[:, :k], **options)
    close(scaled, exponents(matrices, basis[:, :k], **options) + np.log(factor), matrices, factor=100)
