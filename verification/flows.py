"""Autonomous and driven flows; exponents per unit of time."""

import jax.numpy as jnp
import numpy as np

import flossing as fl
from flossing.flows import diffrax_step, rk4
from verification.rows import Row, average, exact

SPROTT = "Sprott (2003)"


def lorenz(h, _):
    x, y, z = h
    return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def rossler(h, _):
    x, y, z = h
    return jnp.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)])


def _run(field, start, *, time, dt, make=rk4, transient=100.0, **options) -> fl.Spectrum:
    settle = round(transient / dt)
    options = {"interval": 10, "time_step": dt, "transient": settle} | options
    return fl.lyapunov_spectrum(
        make(field, dt), None, state=jnp.asarray(start, float), steps=settle + round(time / dt), **options
    )


def sums() -> list[Row]:
    """The mean divergence is constant: the sum is exact, up to the integrator's error."""
    start, total = [1.0, 2.0, 20.0], -(10 + 1 + 8 / 3)
    runge = _run(lorenz, start, time=500, dt=0.01)
    tsit5 = _run(lorenz, start, time=200, dt=0.01, make=diffrax_step)
    sites = 40

    def lorenz96(h, _):
        return (jnp.roll(h, -1) - jnp.roll(h, 2)) * jnp.roll(h, 1) - h + 8

    ring = _run(lorenz96, 8 + 0.01 * np.arange(sites) % 1, time=100, dt=0.02)

    def duffing(h, s):
        return jnp.stack([h[1], -0.25 * h[1] + h[0] - h[0] ** 3 + s])

    dt, steps = 0.01, 40_000
    drive = 0.3 * jnp.cos(jnp.arange(steps) * dt)
    driven = fl.lyapunov_spectrum(
        rk4(duffing, dt), drive, state=jnp.zeros(2), transient=2000, interval=10, time_step=dt
    )
    return [
        exact("Lorenz-63, RK4, dt = 0.01", "Σλ = -(σ+1+β)", total, "divergence", runge.exponents.sum(), allowed=2e-4,
              because="RK4: ~1e-4"),
        exact("Lorenz-63, Tsit5, dt = 0.01", "Σλ = -(σ+1+β)", total, "divergence", tsit5.exponents.sum(), allowed=1e-6,
              because="Tsit5: ~1e-7"),
        exact("Lorenz-96, F = 8, N = 40", "Σλ = -N", -sites, "divergence", ring.exponents.sum(), allowed=1e-3,
              because="RK4, dt = 0.02"),
        exact("driven Duffing oscillator, δ = 0.25", "Σλ = -δ", -0.25, "divergence", driven.exponents.sum(),
              allowed=1e-6, because="RK4, dt = 0.01"),
    ]  # fmt: skip


def lorenz_63() -> list[Row]:
    """Twenty thousand time units; a thousand would leave λ₁ uncertain by 0.005."""
    spectrum = _run(lorenz, [1.0, 2.0, 20.0], time=20_000, dt=0.005)
    values = ((0.90563, "λ₁"), (0.0, "λ₂"), (-14.57219, "λ₃"))
    return [
        *(average("Lorenz-63", name, value, SPROTT, spectrum, i, systematic=1e-5, because="RK4, dt = 0.005")
          for i, (value, name) in enumerate(values)),
        exact("Lorenz-63", "Kaplan-Yorke dimension", 2.06215, SPROTT, fl.kaplan_yorke_dimension(spectrum.exponents),
              allowed=4 * float(spectrum.uncertainty().standard_error[0]) / 14.57, because="4 s.e. of λ₁ / |λ₃|"),
    ]  # fmt: skip


def rossler_attractor() -> list[Row]:
    spectrum = _run(rossler, [1.0, 1.0, 0.0], time=50_000, dt=0.02)
    values = ((0.0714, "λ₁"), (0.0, "λ₂"), (-5.3943, "λ₃"))
    return [
        average("Rössler (0.2, 0.2, 5.7)", name, value, SPROTT, spectrum, i, systematic=5e-5,
                because="last published digit")
        for i, (value, name) in enumerate(values)
    ]  # fmt: skip


FAST = (sums,)
SLOW = (lorenz_63, rossler_attractor)
