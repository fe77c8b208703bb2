"""Constant matrices and products of random matrices, whose exponents are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import flossing as fl
from verification.rows import Row, average, exact, nth, worst

KEY = jax.random.key(20)
IDENTITY = "linear algebra"


def _constant(matrix, steps=200, **options) -> fl.Spectrum:
    matrix = jnp.asarray(matrix)
    return fl.lyapunov_spectrum(lambda h, s: matrix @ h, None, state=jnp.zeros(len(matrix)), steps=steps, **options)


def constant_steps() -> list[Row]:
    rng = np.random.default_rng(1)
    diagonal = np.array([2.0, 1.0, 0.5, 1e-2, 1e-4])
    triangular = np.triu(rng.normal(size=(6, 6)))
    np.fill_diagonal(triangular, [3.0, -2.0, 1.5, 0.7, -0.2, 0.05])
    orthogonal = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    return [
        worst("constant diagonal step", "λᵢ = log|dᵢ|", np.log(diagonal), IDENTITY,
              _constant(np.diag(diagonal), basis=np.eye(5)).exponents),
        worst("constant triangular step", "λᵢ = log|dᵢ|", np.log(np.abs(np.diag(triangular))), IDENTITY,
              _constant(triangular, basis=np.eye(6)).exponents),
        worst("constant orthogonal step", "λᵢ = 0", 0.0, IDENTITY, _constant(orthogonal, key=KEY).exponents),
    ]  # fmt: skip


def linear_step() -> list[Row]:
    rng = np.random.default_rng(2)
    W = rng.normal(size=(10, 10)) / np.sqrt(10)
    moduli = np.sort(np.log(np.abs(np.linalg.eigvals(W))))[::-1]
    steps = 40_000
    ours = _constant(W, steps=steps, transient=steps // 2, key=KEY).exponents
    vectors = rng.normal(size=(6, 6))
    mu, left = 1.3, np.linalg.inv(vectors)[0]
    V = vectors @ np.diag([mu, 0.6, -0.5, 0.3, 0.2, 0.1]) @ np.linalg.inv(vectors)

    def first(V):
        options = {"steps": 400, "transient": 200, "k": 1, "key": KEY}
        return fl.lyapunov_spectrum(lambda h, s: V @ h, None, state=jnp.zeros(6), **options).exponents[0]

    formula = np.outer(left, vectors[:, 0]) / (left @ vectors[:, 0] * mu)
    return [
        worst("linear h' = W h, N = 10", "λᵢ = log|eigᵢ(W)|", moduli, IDENTITY, ours,
              allowed=20 / steps, because="O(1/T)"),
        worst("linear step, largest eigenvalue μ real", "dλ₁/dW = l rᵀ/(lᵀr μ), eigenvectors l, r", formula,
              "perturbation theory", jax.grad(first)(jnp.asarray(V))),
    ]  # fmt: skip


def _gaussian_product(units, steps, complex_=False, k=None) -> fl.Spectrum:
    def step(h, key):
        if not complex_:
            return jax.random.normal(key, (units, units)) @ h / np.sqrt(units)
        parts = jax.random.normal(key, (2, units, units)) / np.sqrt(2 * units)
        return (parts[0] + 1j * parts[1]) @ h

    state = jnp.zeros(units, complex if complex_ else float)
    keys = jax.random.split(jax.random.fold_in(KEY, units + 1000 * complex_), steps)
    return fl.lyapunov_spectrum(step, keys, state=state, k=k, transient=100)


def _newman(units) -> list[Row]:
    spectrum = _gaussian_product(units, 20_100 if units <= 10 else 3_100)
    index = np.arange(1, units + 1)
    exact_values = 0.5 * (np.log(2 / units) + special.digamma((units - index + 1) / 2))
    rows = [
        average(
            f"products of Gaussian matrices, N = {units}", nth(i + 1), exact_values[i], "Newman (1986)", spectrum, i
        )
        for i in range(units)
    ]
    if units <= 10:
        return rows
    # All exponents are checked; the first, middle, last and most deviating ones are shown, and all that fail.
    farthest = max(range(units), key=lambda i: abs(rows[i].deviation_in_errors))
    return [
        rows[i] for i in sorted({0, units // 2, units - 1, farthest} | {i for i in range(units) if not rows[i].holds})
    ]


def newman_small() -> list[Row]:
    return [*_newman(2), *_newman(10)]


def newman_large() -> list[Row]:
    return _newman(50)


def complex_gaussian_products() -> list[Row]:
    """Each exponent of the complex matrices appears twice among those of the real coordinates."""
    units = 4
    spectrum = _gaussian_product(units, 20_100, complex_=True)
    exact_values = 0.5 * (special.digamma(units - np.arange(units)) - np.log(units))
    return [
        average(f"products of complex Gaussian matrices, N = {units}", f"{nth(2 * i + 1)} of 2N", exact_values[i],
                "Forrester (2013)", spectrum, 2 * i)
        for i in range(units)
    ]  # fmt: skip


def random_fibonacci() -> list[Row]:
    """x'' = ± x' ± x grows at Viswanath's constant 1.13198824..."""

    def step(h, sign):
        return jnp.stack([h[1], sign * h[0] + h[1]])

    signs = jnp.where(jax.random.bernoulli(KEY, shape=(400_000,)), 1.0, -1.0)
    spectrum = fl.lyapunov_spectrum(step, signs, state=jnp.zeros(2), transient=1000)
    log_constant = np.log(1.13198824)
    return [
        average("random Fibonacci sequence", "λ₁ = log 1.13198824", log_constant, "Viswanath (2000)", spectrum),
        exact("random Fibonacci sequence", "λ₁ + λ₂ = 0 (|det| = 1)", 0.0, "determinant", spectrum.exponents.sum()),
    ]  # fmt: skip


def lloyd_model() -> list[Row]:
    """Transfer matrices of a chain with Cauchy disorder of width W at energy E: an exact localisation length."""
    rows = []
    for energy, width in ((0.0, 1.0), (1.0, 0.5)):
        potential = width * jax.random.cauchy(jax.random.fold_in(KEY, int(energy)), (400_000,))
        spectrum = fl.lyapunov_spectrum(
            lambda h, v, e=energy: jnp.stack([(e - v) * h[0] - h[1], h[0]]),
            potential,
            state=jnp.zeros(2),
            transient=100,
        )
        exact_value = np.arccosh((np.hypot(2 + energy, width) + np.hypot(2 - energy, width)) / 4)
        rows.append(average(f"Lloyd model, E = {energy:g}, W = {width:g}", "λ₁", exact_value,
                            "Ishii (1973), Thouless (1972)", spectrum))  # fmt: skip
    return rows


FAST = (constant_steps, linear_step, newman_small, complex_gaussian_products)
SLOW = (newman_large, random_fibonacci, lloyd_model)
