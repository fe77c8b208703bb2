"""An initialisation by measurement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl

BITS = jax.random.bernoulli(jax.random.key(0), shape=(120, 1)).astype(float)


def orthogonal(gain, scale):
    return fl.cells.VanillaRNN(
        12, key=jax.random.key(1), recurrent="orthogonal", gain=gain, input_scale=scale, bias_scale=0.0
    )


def test_it_forgets_as_slowly_as_the_horizon_says():
    """An orthogonal network with small inputs has all exponents near log(gain): the mean comes to -1 / horizon."""
    found = fl.calibrate(orthogonal, BITS, horizon=20, k=8)
    assert float(found.exponents[0]) <= 0
    assert float(found.exponents.mean()) == pytest.approx(-1 / 20, abs=0.005)
    again = fl.lyapunov_spectrum(orthogonal(found.gain, found.input_scale), BITS, k=8).exponents
    np.testing.assert_allclose(again, found.exponents, atol=1e-12)


def test_the_range_must_hold_a_network_without_chaos():
    with pytest.raises(
        ValueError, match=r"gains must include one at which the exponents are finite and the largest is at most 0"
    ):
        fl.calibrate(lambda g, s: fl.cells.VanillaRNN(30, key=jax.random.key(1), gain=g), jnp.zeros((120, 1)),
                     horizon=20, gains=(4.0, 8.0))  # fmt: skip


def test_networks_that_escape_are_passed_over():
    """ReLU networks of large gain leave the range of numbers; smaller gains are found."""
    make = lambda g, s: fl.cells.LeakyRNN(8, key=jax.random.key(1), nonlinearity="relu", gain=g, input_scale=s)  # noqa: E731
    found = fl.calibrate(make, jnp.ones((1000, 1)), horizon=20, gains=(0.3, 40.0))
    assert found.gain < 10


def test_one_sequence_at_a_time():
    with pytest.raises(ValueError, match="inputs must be a single sequence .* got a batch of 2"):
        fl.calibrate(orthogonal, jnp.stack([BITS, BITS]), horizon=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be .*positive"),
        ({"horizon": 9, "gains": (2.0, 1.0)}, r"gains must be two positive numbers in ascending order, got"),
        ({"horizon": 9, "input_scales": (0.0, 1.0)}, r"input_scales must be two positive numbers"),
        ({"horizon": 9, "k": 0}, "k must be an integer"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        fl.calibrate(orthogonal, BITS, **options)
