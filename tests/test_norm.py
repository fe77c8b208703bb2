"""Norms and clipping where squares overflow or vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._linalg.norm import clipped, norm_of


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_plain_formula_to_the_bit_where_that_works(dtype):
    numbers = np.random.default_rng(1)
    for size in 10.0 ** np.arange(-12, 13, 3):
        a = jnp.asarray(size * numbers.normal(size=(31, 17)), dtype)
        assert norm_of(a) == jnp.linalg.norm(a.ravel())
        assert norm_of(a).dtype == dtype


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e19, 1e25, 1e38])
def test_any_size(size):
    assert float(norm_of(jnp.full(3, size, "f4"))) == pytest.approx(np.sqrt(3) * size, rel=1e-6)
    assert float(norm_of([jnp.full(1, 3 * size, "f4"), jnp.zeros(2, "f4")])) == pytest.approx(3 * size, rel=1e-6)
    np.testing.assert_allclose(jax.grad(norm_of)(size * jnp.array([0.6, 0.8], "f4")), [0.6, 0.8], rtol=1e-6)


def test_what_is_not_finite_stays_visible():
    assert np.isposinf(norm_of(jnp.array([1.0, jnp.inf])))
    assert np.isnan(norm_of(jnp.array([1.0, jnp.nan])))
    assert norm_of(jnp.zeros(3)) == norm_of([]) == norm_of(jnp.zeros(0)) == 0


def test_several_arrays_narrow_ones_and_complex_ones():
    tree = {"a": jnp.array([3.0], "f4"), "b": jnp.array([4j], "c8"), "c": jnp.array([12.0], "f2")}
    assert float(norm_of(tree)) == 13
    assert norm_of(tree).dtype == np.float32
    halved = clipped(tree, 6.5)
    assert [leaf.dtype for leaf in jax.tree_util.tree_leaves(halved)] == ["float32", "complex64", "float16"]
    assert float(norm_of(halved)) == pytest.approx(6.5)


def test_a_huge_gradient_is_clipped_not_thrown_away():
    clip = fl.clip_by_array_norm(0.03)
    gradients = {"large": jnp.full(3, 1e25, "f4"), "small": jnp.array([0.01], "f4")}
    updates, _ = clip.update(gradients, clip.init(gradients))
    np.testing.assert_allclose(updates["large"], 0.03 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(updates["small"], 0.01, rtol=1e-6)
