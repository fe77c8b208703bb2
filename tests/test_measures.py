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
        ([-1e-12, -1.0], 1.0),
        ([1e-12, -1.0], 1.0),
        ([0.3, -0.1, -jnp.inf], 2.0),
    ],
)
def test_kaplan_yorke_dimension(exponents, dimension):
    assert float(fl.kaplan_yorke_dimension(jnp.array(exponents))) == pytest.approx(dimension, abs=1e-5)


def test_entropy_rate():
    assert float(fl.entropy_rate(jnp.array([0.3, 0.2, 0.0, -5.0]))) == pytest.approx(0.5)
    assert float(fl.entropy_rate(jnp.array([-0.3, -jnp.inf]))) == 0.0


LORENZ = [0.9056, 0.0, -14.5723]


def test_dimension_and_entropy_of_batches_lists_and_tensors():
    both = jnp.array([LORENZ, [0.4, -0.1, -1.0]])
    np.testing.assert_allclose(fl.kaplan_yorke_dimension(both), [2.0621, 2.3], atol=1e-4)
    np.testing.assert_allclose(fl.entropy_rate(both), [0.9056, 0.4])
    np.testing.assert_allclose(fl.kaplan_yorke_dimension(LORENZ), 2.0621, atol=1e-4)
    np.testing.assert_allclose(fl.entropy_rate(LORENZ), 0.9056)
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(LORENZ, dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(fl.kaplan_yorke_dimension(tensor), 2.0621, atol=1e-4)


def test_part_of_a_spectrum_has_no_dimension():
    with pytest.raises(ValueError, match="exponents must go on until their sum turns negative, got 2 whose sums do"):
        fl.kaplan_yorke_dimension(LORENZ[:2])
    with pytest.raises(ValueError, match="exponents must include one that is not positive, got 2 positive ones"):
        fl.entropy_rate([0.3, 0.1])
    assert np.isnan(jax.jit(fl.kaplan_yorke_dimension)(jnp.array(LORENZ[:2])))
    assert np.isnan(jax.jit(fl.entropy_rate)(jnp.array([0.3, 0.1])))
    assert float(fl.kaplan_yorke_dimension([0.5, 0.1], complete=True)) == 2
    assert float(fl.entropy_rate([0.5, 0.1], complete=True)) == pytest.approx(0.6)


def test_the_dimension_of_a_run_has_an_error():
    """Henon maps from 24 initial states: their scatter is that of the standard error."""
    step = lambda h, _: jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])  # noqa: E731
    starts = 0.1 * jax.random.normal(jax.random.key(0), (24, 2))
    options = {"steps": 4000, "transient": 100, "state": starts, "batched": True}
    found = fl.lyapunov_spectrum(step, None, **options).kaplan_yorke_dimension()
    assert found.value.shape == found.standard_error.shape == (24,)
    np.testing.assert_allclose(found.value.mean(), 1.2583, atol=4 * float(found.standard_error.mean()) / 24**0.5)
    assert 0.6 < float(found.value.std(ddof=1) / found.standard_error.mean()) < 1.6
    short = fl.lyapunov_spectrum(step, None, **options | {"steps": 200}).kaplan_yorke_dimension()
    assert np.isnan(short.standard_error).all()


def test_a_limit_cycle_has_dimension_one_whatever_the_sign_of_its_zero():
    """A cycle measured over a finite time: its largest exponent is within the error of 0."""
    field = lambda h, _: jnp.stack([h[0] - h[1] - h[0] * (h**2).sum(), h[1] + h[0] - h[1] * (h**2).sum()])  # noqa: E731
    run = {"steps": 20_000, "transient": 2000, "interval": 10, "time_step": 0.01}
    for start in ([1.0, 0.0], [0.3, 0.2], [2.0, -1.0]):
        spectrum = fl.lyapunov_spectrum(fl.flows.rk4(field, 0.01), None, state=jnp.array(start), **run)
        np.testing.assert_allclose(spectrum.kaplan_yorke_dimension().value, 1, atol=0.02)


def test_a_sum_near_zero_counts_as_zero_only_where_its_last_exponent_does():
    """Four coupled oscillators, with a sum of eight exponents that is just negative: the dimension is below 8."""
    exponents = [0.0319, 0.0224, 0.0107, 0.0016, 0.0003, -0.0100, -0.0218, -0.0374, -4.441, -5.242]
    errors = np.full(10, 0.004)
    found = fl.kaplan_yorke_dimension(exponents, standard_error=errors)
    np.testing.assert_allclose(found, 7 + sum(exponents[:7]) / 0.0374)
    cycle = fl.kaplan_yorke_dimension([-0.001, -2.0], standard_error=[0.001, 0.001])
    assert float(cycle) == 1


def test_effective_numbers_of_each_row_of_a_batch():
    rows = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    for measure in (fl.participation_ratio, fl.effective_rank):
        np.testing.assert_allclose(measure(rows), [2, 3], rtol=1e-12)
        assert float(measure([1, 1, 0])) == pytest.approx(2)
        with pytest.raises(ValueError, match=r"must have shape \(n,\) or \(B, n\), got shape \(0,\)"):
            measure([])
        with pytest.raises(ValueError, match="must not be negative, got -1.0"):
            measure([1.0, -1.0])


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


@pytest.mark.parametrize(("exponents", "gradient"), [([1.0, -2.0], [0.5, 0.25]), ([-1.0, -2.0], [0, 0])])
def test_the_dimension_has_a_gradient(exponents, gradient):
    np.testing.assert_allclose(jax.grad(fl.kaplan_yorke_dimension)(jnp.array(exponents)), gradient, atol=1e-12)
