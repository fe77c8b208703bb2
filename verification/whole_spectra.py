"""Whole spectra of large systems: random networks, Lorenz-96, Kuramoto-Sivashinsky, and a symplectic map."""

import jax
import jax.numpy as jnp
import numpy as np

import flossing as fl
from verification.rows import Row, average, ensemble, exact, nth, worst

CLARK = "N → ∞, Clark (arXiv 2610.12426)"
KEY = jax.random.key(0)
DELTA = 0.5


def share_below(s: float, gain: float) -> float:
    """The share of exponents below `s` for a gain below 1, as N grows: the circular law inside a disc.

    The eigenvalues of the Jacobian, 1 - delta + delta mu, have |mu| < gain; those below `s` lie in a second disc.
    """
    radius, distance = np.exp(DELTA * s) / DELTA, abs(1 - 1 / DELTA)
    if distance >= gain + radius:
        return 0.0
    if distance <= abs(gain - radius):
        return min(1.0, (radius / gain) ** 2)
    # Half the angle that the common chord subtends at each centre: two sectors without the kite between the centres.
    alpha = np.arccos((distance**2 + gain**2 - radius**2) / (2 * distance * gain))
    beta = np.arccos((distance**2 + radius**2 - gain**2) / (2 * distance * radius))
    area = gain**2 * alpha + radius**2 * beta - distance * gain * np.sin(alpha)
    return area / (np.pi * gain**2)


def random_network(units: int, gain: float, key: jax.Array, **run):
    """x' = (1 - delta) x + delta J tanh(x) -> the exponents per unit of time, and J."""
    of_weights, of_start = jax.random.split(key)
    weights = gain / np.sqrt(units) * jax.random.normal(of_weights, (units, units))
    start = jax.random.normal(of_start, (units,))

    def step(x, _):
        return (1 - DELTA) * x + DELTA * weights @ jnp.tanh(x)

    return fl.lyapunov_spectrum(step, None, state=start, time_step=DELTA, **run).exponents, weights


def stable_networks() -> list[Row]:
    """g = 0.8: the whole spectrum against the eigenvalues of each network, and the circular law."""
    rows = [
        exact("x' = x/2 + J tanh(x)/2, g = 0.8, N → ∞", f"F({s:g}), overlap of two discs", share, "stored value",
              share_below(s, 0.8), allowed=5e-6, because="five digits")
        for s, share in ((-1, 0.59423), (-0.5, 0.87657))
    ]  # fmt: skip
    for units, nets, steps in ((250, 3, 600), (1000, 2, 300)):
        shares, deviations = [], []
        for net in range(nets):
            run = {"steps": steps, "transient": steps // 2, "interval": 6}
            found, weights = random_network(units, 0.8, jax.random.fold_in(KEY, 10 * units + net), **run)
            truth = np.sort(np.log(np.abs(1 - DELTA + DELTA * np.linalg.eigvals(weights))))[::-1] / DELTA
            deviations.append(np.max(np.abs(np.asarray(found) - truth)))
            shares.append([np.mean(found < s) for s in (-1, -0.5)])
        system = f"x' = x/2 + J tanh(x)/2, g = 0.8, N = {units}, {nets} networks"
        rows.append(exact(system, "all exponents, worst deviation", 0, "eigenvalues of J", max(deviations),
                          allowed=0.06, because=f"{steps // 2} steps; neighbouring exponents mix"))  # fmt: skip
        for index, s in enumerate((-1, -0.5)):
            rows.append(ensemble(system, f"F({s:g})", share_below(s, 0.8), "circular law", np.array(shares)[:, index],
                                 systematic=5 / units, because="5/N"))  # fmt: skip
    return rows


def chaotic_networks() -> list[Row]:
    """g = 3: dimension, entropy and shares of the spectrum, against the theory for N to infinity."""
    rows = []
    limits = (("D_KY/N", 0.0893, 5.0), ("h_KS/N", 0.00458, 0.3), ("F(0)", 0.9562, 2.0), ("F(-1.086)", 0.6523, 4.0))
    for units, nets, steps in ((250, 6, 2000), (1000, 2, 700)):
        found = []
        for net in range(nets):
            run = {"steps": steps + 200, "transient": 200, "interval": 5, "k": round(0.45 * units)}
            exponents, _ = random_network(units, 3.0, jax.random.fold_in(KEY, 20 * units + net), **run)
            shares = [1 - (exponents >= s).sum() / units for s in (0, -1.086)]
            dimension, entropy = fl.kaplan_yorke_dimension(exponents), fl.entropy_rate(exponents)
            found.append([dimension / units, entropy / units, *shares])
        values = np.array(found, float)
        for index, (name, limit, trend) in enumerate(limits):
            system = f"x' = x/2 + J tanh(x)/2, g = 3, N = {units}, {nets} networks"
            because = f"{trend:g}/N, finite size"
            rows.append(ensemble(system, name, limit, CLARK, values[:, index], systematic=trend / units,
                                 because=because))  # fmt: skip
    return rows


def lorenz_96() -> list[Row]:
    def field(h, _):
        return (jnp.roll(h, -1) - jnp.roll(h, 2)) * jnp.roll(h, 1) - h + 8

    start = 8 + jax.random.normal(KEY, (40,))
    run = {"steps": 60_000, "transient": 1_000, "interval": 4, "time_step": 0.05}
    spectrum = fl.lyapunov_spectrum(fl.flows.rk4(field, 0.05), None, state=start, **run)
    dimension = spectrum.kaplan_yorke_dimension()
    source = "Karimi & Paul (2010)"
    return [
        average("Lorenz-96, N = 40, F = 8", "λ₁", 1.68, source, spectrum, systematic=0.01,
                because="two digits"),
        exact("Lorenz-96, N = 40, F = 8", "Σλ = -N", -40, "divergence", spectrum.exponents.sum(), allowed=0.02,
              because="RK4 at dt = 0.05"),
        exact("Lorenz-96, N = 40, F = 8", "Kaplan-Yorke dimension", 27.1, source, dimension.value,
              allowed=4 * float(dimension.standard_error) + 0.05, because="4 s.e. + three digits"),
    ]  # fmt: skip


def etdrk4(linear, nonlinear, dt: float):
    """The step of Cox & Matthews for u' = linear u + nonlinear(u), with the contours of Kassam & Trefethen."""
    x = dt * linear[:, None] + np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    e = np.exp(x)
    half, whole = np.exp(dt * linear / 2), np.exp(dt * linear)
    contours = (
        (np.exp(x / 2) - 1) / x,
        (-4 - x + e * (4 - 3 * x + x**2)) / x**3,
        (2 + x + e * (x - 2)) / x**3,
        (-4 - 3 * x - x**2 + e * (4 - x)) / x**3,
    )
    q, first, middle, last = (dt * w.mean(1).real for w in contours)

    def step(u, _):
        n = nonlinear(u)
        a = half * u + q * n
        na = nonlinear(a)
        b = half * u + q * na
        nb = nonlinear(b)
        c = half * a + q * (2 * nb - n)
        return whole * u + first * n + 2 * middle * (na + nb) + last * nonlinear(c)

    return step


def kuramoto_sivashinsky() -> list[Row]:
    """u_t = -u u_x - u_xx - u_xxxx on a ring of length 22: the Fourier modes 1 to 15 of a real field."""
    modes, grid = 15, 48
    wave = 2 * np.pi * np.arange(1, modes + 1) / 22

    def advection(a):
        u = jnp.fft.irfft(jnp.pad(a, (1, grid // 2 - modes)), grid)
        return -0.5j * wave * jnp.fft.rfft(u * u)[1 : modes + 1]

    start = 0.1 * grid * jax.random.normal(KEY, (modes,), complex) / (1 + wave**4)
    run = {"steps": 60_000, "transient": 2_000, "interval": 10, "time_step": 0.25, "k": 6}
    spectrum = fl.lyapunov_spectrum(etdrk4(wave**2 - wave**4, advection, 0.25), None, state=start, **run)
    system, source = "Kuramoto-Sivashinsky, L = 22", "Cvitanović et al. (2010)"
    return [
        average(system, "λ₁", 0.046, source, spectrum, systematic=0.003, because="the range 0.043 to 0.049"),
        *(average(system, nth(i + 1), 0, "shifts in space and time", spectrum, i, systematic=0.002, because="1/T")
          for i in (1, 2)),
    ]  # fmt: skip


def henon_heiles() -> list[Row]:
    """Störmer-Verlet steps are symplectic: the sum of the exponents is 0 at every T."""
    dt = 0.05

    def force(q):
        x, y = q
        return jnp.stack([-x - 2 * x * y, -y - x * x + y * y])

    def verlet(state, _):
        q, p = state
        p = p + dt / 2 * force(q)
        q = q + dt * p
        return q, p + dt / 2 * force(q)

    y, py = 0.1, -0.05
    px = np.sqrt(2 * (1 / 8 - py**2 / 2 - y**2 / 2 + y**3 / 3))  # x = 0, energy 1/8
    start = jnp.array([0.0, y]), jnp.array([px, py])
    run = {"steps": 100_000, "transient": 0, "time_step": dt, "interval": 10}
    growth = fl.lyapunov_spectrum(verlet, None, state=start, **run).log_growth.sum(-1)
    return [worst("Hénon-Heiles, Störmer-Verlet", "T Σλ, after each block", 0, "symplectic",
                  np.cumsum(growth), allowed=1e-9)]  # fmt: skip


def generalised_henon() -> list[Row]:
    def step(h, _):
        x, y, z = h
        return jnp.stack([1.9 - y**2 - 0.03 * z, x, y])

    spectrum = fl.lyapunov_spectrum(step, None, state=jnp.array([0.1, 0.0, 0.1]), steps=500_000, transient=1_000)
    source = "Baier & Klein (1990)"
    return [
        *(average("generalised Hénon map (1.9, 0.03)", nth(i + 1), truth, source, spectrum, i, systematic=0.002,
                  because="three digits") for i, truth in enumerate((0.276, 0.257, -4.04))),
        exact("generalised Hénon map (1.9, 0.03)", "Σλ = log 0.03", np.log(0.03), "determinant",
              spectrum.exponents.sum()),
    ]  # fmt: skip


FAST = (henon_heiles,)
SLOW = (stable_networks, chaotic_networks, lorenz_96, kuramoto_sivashinsky, generalised_henon)
