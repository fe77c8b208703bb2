"""Maps of one and two dimensions, and coupled map lattices."""

import jax
import jax.numpy as jnp
import numpy as np

import flossing as fl
from verification.rows import Row, average, exact, worst

STEPS = 200_000
KEY = jax.random.key(21)


def _run(step, start, steps=STEPS, **options) -> fl.Spectrum:
    options = {"transient": 1000} | options
    return fl.lyapunov_spectrum(step, None, state=jnp.asarray(start, float), steps=steps, **options)


def _noisy(step, start, steps=STEPS, size=1e-14, **options) -> fl.Spectrum:
    """With noise in the last bits; without it, expanding maps with slope 2 reach exactly 0 after about 50 steps."""
    noise = size * jax.random.uniform(KEY, (steps, *np.shape(start)))
    options = {"transient": 1000} | options
    return fl.lyapunov_spectrum(lambda h, e: step(h, None) + e, noise, state=jnp.asarray(start, float), **options)


def logistic(h, _):
    return 4 * h * (1 - h)


def tent(h, _):
    return jnp.where(h < 0.5, 2 * h, 2 - 2 * h)


def cat(h, _):
    return jnp.stack([2 * h[0] + h[1], h[0] + h[1]]) % 1


def henon(h, _):
    return jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])


def lozi(h, _):
    return jnp.stack([1 - 1.7 * jnp.abs(h[0]) + h[1], 0.5 * h[0]])


def without_variance() -> list[Row]:
    """Growth is constant up to a coboundary: the average converges like 1/T, and the error bar is only a bound."""
    golden_square = np.log((3 + np.sqrt(5)) / 2)
    arnold = _noisy(cat, [0.3, 0.4], steps=20_000)
    chebyshev = _run(lambda h, _: 4 * h**3 - 3 * h, [0.3])
    return [
        average("logistic map, r = 4", "λ₁ = log 2", np.log(2), "exact", _run(logistic, [0.3])),
        average("tent map", "λ₁ = log 2", np.log(2), "exact", _noisy(tent, [0.3], steps=20_000), systematic=1e-9,
                because="rounding"),
        exact("Arnold's cat map", "λ₁ = log((3 + √5)/2)", golden_square, "exact", arnold.exponents[0],
              allowed=1e-4, because="O(1/T)"),
        exact("Arnold's cat map", "λ₂ = -λ₁", -golden_square, "exact", arnold.exponents[1], allowed=1e-4,
              because="O(1/T)"),
        average("Chebyshev map of degree 3", "λ₁ = log 3", np.log(3), "Adler & Rivlin (1964)", chebyshev),
        average("β-transformation, β = 1.7", "λ₁ = log β", np.log(1.7), "Rényi (1957)",
                _run(lambda h, _: (1.7 * h) % 1, [0.3], steps=20_000), systematic=1e-9, because="rounding"),
    ]  # fmt: skip


def one_dimension() -> list[Row]:
    a = 0.3
    skew = _run(lambda h, _: jnp.where(h < a, h / a, (1 - h) / (1 - a)), [0.123])
    gauss = _run(lambda h, _: (1 / h) % 1, [np.sqrt(2) - 1 + 0.01])
    return [
        average("skew tent map, a = 0.3", "λ₁ = -a log a - (1-a) log(1-a)", -a * np.log(a) - (1 - a) * np.log(1 - a),
                "exact", skew),
        average("Gauss map (continued fractions)", "λ₁ = π²/(6 log 2)", np.pi**2 / (6 * np.log(2)), "Khinchin (1935)",
                gauss),
    ]  # fmt: skip


def henon_map() -> list[Row]:
    spectrum = _run(henon, [0.1, 0.1], steps=2_000_000)
    source = "Sprott (2003)"
    return [
        exact("Hénon map (1.4, 0.3)", "λ₁ + λ₂ = log 0.3", np.log(0.3), "exact", spectrum.exponents.sum()),
        average("Hénon map (1.4, 0.3)", "λ₁", 0.419217, source, spectrum, 0),
        average("Hénon map (1.4, 0.3)", "λ₂", -1.623190, source, spectrum, 1),
        exact("Hénon map (1.4, 0.3)", "Kaplan-Yorke dimension", 1.258267, source,
              fl.kaplan_yorke_dimension(spectrum.exponents), allowed=1e-3,
              because="4 s.e. of λ₁ / |λ₂|"),
    ]  # fmt: skip


def two_dimensions() -> list[Row]:
    K = 50.0

    def standard(h, _):
        p = h[1] + K * jnp.sin(h[0])
        return jnp.stack([h[0] + p, p]) % (2 * jnp.pi)

    symplectic = _run(standard, [0.5, 0.3])
    return [
        exact("Lozi map (1.7, 0.5)", "λ₁ + λ₂ = log 0.5", np.log(0.5), "determinant",
              _run(lozi, [0.1, 0.1], steps=20_000).exponents.sum()),
        exact("standard map, K = 50", "λ₁ + λ₂ = 0", 0.0, "symplectic", symplectic.exponents.sum()),
        average("standard map, K = 50", "λ₁ ≈ log(K/2)", np.log(K / 2), "Chirikov (1979)", symplectic,
                systematic=1 / K**2, because="O(K⁻²) of the asymptotics"),
    ]  # fmt: skip


def lattices() -> list[Row]:
    """Coupled maps: doubling maps, with the constant Jacobian 2 C, and the synchronous state of logistic maps."""
    sites, coupling = 8, 0.2
    ring = np.roll(np.eye(sites), 1, axis=0)
    C = jnp.asarray((1 - coupling) * np.eye(sites) + coupling / 2 * (ring + ring.T))
    rates = np.log(2) + np.sort(np.log(np.abs(np.linalg.eigvalsh(np.asarray(C)))))[::-1]
    start = np.random.default_rng(0).uniform(size=sites)
    doubling = _noisy(lambda h, _: (C @ (2 * h)) % 1, start, steps=20_000, transient=4000)

    # Globally coupled logistic maps in their synchronous state: λ + log(1 - ε) in all transverse directions.
    epsilon, r = 0.6, 4.0

    def coupled(h, _):
        f = r * h * (1 - h)
        return (1 - epsilon) * f + epsilon * f.mean() * jnp.ones_like(f)

    synchronous = _run(coupled, np.full(5, 0.3), steps=50_000)
    single = float(_run(logistic, [0.3], steps=50_000).exponents[0])
    return [
        worst("ring of 8 coupled doubling maps", "λᵢ = log 2 + log|eigᵢ(C)|", rates, "Isola et al. (1990)",
              doubling.exponents, allowed=1e-6, because="O(1/T)"),
        exact("5 globally coupled logistic maps, ε = 0.6", "λ₁ = λ of one", single, "Kaneko (1990)",
              synchronous.exponents[0], allowed=1e-3, because="O(1/T)"),
        worst("5 globally coupled logistic maps, ε = 0.6", "λ₂..₅ = λ + log(1-ε)", single + np.log(1 - epsilon),
              "Kaneko (1990)", synchronous.exponents[1:], allowed=1e-3, because="O(1/T)"),
    ]  # fmt: skip


FAST = (without_variance, one_dimension, two_dimensions, lattices)
SLOW = (henon_map,)
