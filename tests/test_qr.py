"""Cholesky QR, batched on a GPU and large on a CPU, against Householder QR; products use full precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import lax

import flossing as fl
from flossing._linalg.qr import positive_qr
from flossing._linalg.qr_schemes import Householder, cholesky_qr2, decompose, shifted_cholesky_qr3

householder_qr = Householder()


def qr_on_cpu(a):
    return decompose(a, "cpu")


def qr_on_gpu(a):
    return decompose(a, "gpu")


many_by_cholesky, many_by_householder = jax.jit(qr_on_gpu), jax.jit(householder_qr)
large_by_cholesky = jax.jit(qr_on_cpu)


def matrices(rng, *shape, condition=10.0, dtype="float64"):
    """Random ones, singular values evenly spread in their logarithms from 1 down to 1 / condition."""
    *batch, n, k = shape
    q = np.linalg.qr(rng.normal(size=(*batch, n, k)))[0]
    v = np.linalg.qr(rng.normal(size=(*batch, k, k)))[0]
    return jnp.asarray(q * np.geomspace(1, 1 / condition, k) @ v, dtype)


def deviations(a, q, r):
    """From orthonormal, from A (relative), both in units of rounding; R is triangular with a positive diagonal."""
    identity = np.eye(r.shape[-1])
    assert np.all(np.tril(r, -1) == 0)
    assert np.all(np.diagonal(r, axis1=-2, axis2=-1) > 0)
    q, r, a = (np.asarray(x, float) for x in (q, r, a))
    error = np.linalg.norm(q @ r - a, axis=(-2, -1)) / np.linalg.norm(a, axis=(-2, -1))
    return np.abs(np.swapaxes(q, -1, -2) @ q - identity).max(), error.max()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(1, 1), (12, 12), (30, 5)]),
    st.floats(0, 5),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 99),
)
def test_many_at_once(shape, decades, dtype, seed):
    a = matrices(np.random.default_rng(seed), 3, *shape, condition=10**decades, dtype=dtype)
    found = many_by_cholesky(a)
    eps = float(jnp.finfo(dtype).eps)
    assert max(deviations(a, *found)) < 100 * eps
    # Both ways are right to rounding, that is to eps times the condition number in the directions of small ones.
    for ours, theirs in zip(found, many_by_householder(a), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=300 * eps * 10**decades)


def test_it_is_done_by_cholesky_where_that_can_be():
    """And float32 columns of which one nearly depends on others are left to Householder: so few rounds cannot."""
    rng = np.random.default_rng(1)
    goes_well = jax.jit(lambda a: shifted_cholesky_qr3(a)[2])
    assert goes_well(matrices(rng, 80, 75, condition=1e4, dtype="float32"))
    assert not goes_well(matrices(rng, 80, 75, condition=1e9, dtype="float32"))


@pytest.mark.parametrize("graded", [False, True])
@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(), (2,)]), st.floats(0, 9), st.sampled_from(["float32", "float64"]), st.integers(0, 99))
def test_large_ones(graded, batch, decades, dtype, seed):
    """As good as Householder's whatever the condition; columns of different length are no difficulty at all."""
    rng, eps = np.random.default_rng(seed), float(jnp.finfo(dtype).eps)
    decades = min(decades, 4.0) if dtype == "float32" else decades
    a = matrices(rng, *batch, 256, 64, condition=1 if graded else 10**decades, dtype=dtype)
    a = jnp.asarray(np.asarray(a) * np.geomspace(1, 10**-decades, 64), dtype) if graded else a
    found = large_by_cholesky(a)
    assert max(deviations(a, *found)) < 300 * eps
    for ours, theirs in zip(found, many_by_householder(a), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=300 * eps * (1 if graded else 10**decades))


def test_two_rounds_where_that_can_be():
    """Up to a condition of the square root of the precision; beyond that, Householder QR takes over."""
    rng = np.random.default_rng(1)
    goes_well = jax.jit(lambda a: cholesky_qr2(a)[2])
    for dtype, most in (("float32", 3), ("float64", 7)):
        assert goes_well(matrices(rng, 256, 64, condition=10**most, dtype=dtype))
        assert not goes_well(matrices(rng, 256, 64, condition=10.0 ** (most + 2), dtype=dtype))
    a = np.array(matrices(rng, 2, 256, 64))
    a[1, :, 5] = 0
    for ours, theirs in zip(large_by_cholesky(a), many_by_householder(a), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("qr", "rounds", "shape"), [(qr_on_cpu, cholesky_qr2, (256, 64)), (qr_on_gpu, shifted_cholesky_qr3, (3, 30, 5))]
)
def test_the_fast_way_is_taken(qr, rounds, shape):
    a = matrices(np.random.default_rng(6), *shape)
    q, r, _ = jax.jit(jax.vmap(rounds))(a.reshape(-1, *a.shape[-2:]))
    for found, wanted in zip(jax.jit(qr)(a), (q, r), strict=True):
        np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    assert not np.array_equal(np.ravel(q), np.ravel(many_by_householder(a)[0]))


def test_derivative_of_large_ones():
    """Of one and of a batch, against JAX's rule for LAPACK's."""
    a = matrices(np.random.default_rng(7), 2, 256, 32)
    weights = jnp.asarray(np.random.default_rng(8).normal(size=(256, 32)))

    def loss(qr, a):
        q, r = qr(a)
        return jnp.sum(jnp.sin(q) * weights) + jnp.sum(jnp.log(jnp.diagonal(r)))

    ours, theirs = (jax.grad(functools.partial(loss, qr)) for qr in (positive_qr, householder_qr))
    wanted = jax.jit(jax.vmap(theirs))(a)
    np.testing.assert_allclose(jax.jit(ours)(a[0]), wanted[0], atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.vmap(ours))(a), wanted, atol=1e-9)


def test_dependent_columns_are_left_to_householder():
    a = np.array(matrices(np.random.default_rng(2), 4, 12, 5))
    a[1, :, 2] = a[1, :, 0]
    a[3] = 0
    for ours, theirs in zip(many_by_cholesky(a), many_by_householder(a), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("qr", [positive_qr, qr_on_gpu])
def test_many_of_many(qr):
    """vmap over networks and sequences, in any order of axes, equals single calls."""
    a = matrices(np.random.default_rng(3), 2, 3, 8, 4)
    each = [[householder_qr(one) for one in row] for row in a]
    expected = [np.array([[pair[i] for pair in row] for row in each]) for i in (0, 1)]
    ways = [qr(a)]
    if qr is positive_qr:
        ways += [jax.vmap(jax.vmap(qr))(a), jax.vmap(jax.vmap(qr), in_axes=2)(jnp.moveaxis(a, 0, 2)), jax.vmap(qr)(a)]
    for found in ways:
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_derivatives_to_second_order():
    """Of one matrix and of many, against JAX's own rule for its QR."""
    a = matrices(np.random.default_rng(4), 5, 6, 3)
    weights = jnp.asarray(np.random.default_rng(5).normal(size=(6, 3)))

    def loss(qr, a):
        q, r = qr(a)
        return jnp.sum(jnp.sin(q) * weights) + jnp.sum(jnp.log(jnp.diagonal(r)) * weights[0])

    for order in (jax.grad, jax.hessian):
        ours, theirs = (
            jax.jit(jax.vmap(order(functools.partial(loss, qr))))(a) for qr in (positive_qr, householder_qr)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    # The derivative of a batch, whose rule sees the batch.
    sum_of = jax.jit(jax.grad(lambda a: jax.vmap(functools.partial(loss, positive_qr))(a).sum()))(a)
    each = jax.jit(jax.vmap(jax.grad(functools.partial(loss, householder_qr))))(a)
    np.testing.assert_allclose(sum_of, each, atol=1e-10)


def lowered(platform, function, *arguments):
    """The program that JAX would compile there."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def test_each_platform_has_its_way():
    a = jax.ShapeDtypeStruct((6, 8, 3), "float32")
    ways = {platform: lowered(platform, jax.vmap(positive_qr), a) for platform in ("cpu", "cuda")}
    assert "potrf" in ways["cuda"]
    assert "potrf" not in ways["cpu"]
    large = lowered("cpu", positive_qr, jax.ShapeDtypeStruct((256, 64), "float32"))
    wide = lowered("cpu", positive_qr, jax.ShapeDtypeStruct((256, 128), "float32"))
    assert "potrf" in large
    assert "potrf" not in wide
    single = lowered("cuda", positive_qr, jax.ShapeDtypeStruct((8, 3), "float32"))
    assert "potrf" not in single
    assert "geqrf" in single


@pytest.mark.parametrize("gradient", [False, True])
def test_products_are_full(gradient):
    """A GPU rounds the operands of float32 products to 10 bits unless each product requests more precision."""
    one, bits = jnp.ones((4, 4), "float32") / 3, jnp.ones((6, 4), "float32")

    def loss(weights, interval):
        model = fl.Flossing(
            one,
            lambda key: bits,
            state=lambda weights: jnp.ones(4, "float32") / 7,
            step=lambda weights, x, s: jnp.tanh(weights @ x + s),
            where=lambda weights: weights,
            key=jax.random.key(0),
            k=2,
            window=6,
            transient=1,
            interval=interval,
        )
        return model.loss(weights, jax.random.key(1))

    for interval in (2, "auto"):
        function = functools.partial(loss, interval=interval)
        function = jax.grad(function) if gradient else function
        for program in (lowered("cuda", function, one), lowered("cuda", jax.vmap(function), jnp.stack([one, one]))):
            products = [line for line in program.splitlines() if "dot_general" in line]
            assert products and all("HIGHEST" in line for line in products), products


WEIGHTS, STATE, BITS = np.ones((4, 4), "float32") / 3, np.ones(4, "float32") / 7, np.ones((6, 4), "float32")
MEASURED = {
    "lyapunov_spectrum": lambda step: fl.lyapunov_spectrum(step, BITS, state=STATE, k=2, transient=0).exponents,
    "lyapunov_spectrum of a batch": lambda step: (
        fl.lyapunov_spectrum(step, np.stack([BITS, BITS]), batched=True, state=STATE, k=2, transient=0).exponents
    ),
    "long_term_jacobian": lambda step: fl.long_term_jacobian(step, BITS, state=STATE, horizons=[3]).log_singular_values,
    "long_term_jvp": lambda step: fl.long_term_jvp(step, BITS, state=STATE, vectors=np.eye(4, 2, dtype="float32"))[0],
    "covariant_vectors": lambda step: (
        fl.covariant_vectors(step, BITS, state=STATE, k=2, transient=1, backward_transient=0).exponents
    ),
    "backpropagated_norms": lambda step: (
        fl.backpropagated_norms(step, BITS, lambda h: h[-1].sum(), state=STATE).log_norm
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_products_are_full_whatever_is_measured(name):
    def measure(weights):
        return MEASURED[name](lambda x, s: jnp.tanh(weights @ x + s))

    products = [line for line in lowered("cuda", measure, WEIGHTS).splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products), products


def test_what_a_step_asks_for_itself_is_kept():
    weights = jnp.ones((4, 4), "float32") / 3

    def exponents(x):
        step = lambda x, s: jnp.tanh(jnp.matmul(weights, x, precision=lax.Precision.DEFAULT))  # noqa: E731
        return fl.lyapunov_spectrum(step, None, state=x, steps=3, transient=0).exponents

    text = lowered("cuda", exponents, jnp.ones(4, "float32"))
    assert "DEFAULT" in text


def test_float64_is_never_rounded_in_silence():
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ValueError, match="a is float64 but JAX runs with x64 off"):
        fl.orthonormalise(np.eye(3))
    assert fl.orthonormalise(np.eye(3, dtype=np.float32))[0].dtype == jnp.float32
