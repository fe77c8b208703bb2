"""Systems with a drive or a structure of their own: delays, noise, forcing, resets, reservoirs, a drive's response."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

import flossing as fl
from verification.rows import Row, average, exact, worst

KEY = jax.random.key(0)


def delays() -> list[Row]:
    """x(n+1) = x(n) - x(n-20)/20, by a shift of the history and by a ring buffer with an integer counter."""
    size, dt = 21, 1 / 20
    companion = np.eye(size, k=-1)
    companion[0, [0, -1]] = 1, -dt
    truth = np.sort(np.log(np.abs(np.linalg.eigvals(companion))))[::-1] / dt
    start = jax.random.normal(KEY, (size,))

    def shift(h, _):
        return jnp.roll(h, 1).at[0].set(h[0] - dt * h[-1])

    def ring(state, _):
        history, now = state
        oldest = (now + 1) % size
        return history.at[oldest].set(history[now] - dt * history[oldest]), oldest

    rows = []
    for name, step, state in (("shift", shift, start), ("ring buffer", ring, (start, jnp.array(0)))):
        run = {"steps": 60_000, "transient": 5_000, "time_step": dt}
        found = fl.lyapunov_spectrum(step, None, state=state, **run).exponents
        system = f"x(n+1) = x(n) - x(n-20)/20, {name}"
        pairs = {"allowed": 1e-6, "because": "a complex pair rotates: O(1/T)"}
        rows += [
            exact(system, "λ₁, λ₂", truth[:2].mean(), "companion matrix", found[:2].mean(), **pairs),
            exact(system, "λ₃, λ₄", truth[2:4].mean(), "companion matrix", found[2:4].mean(), **pairs),
            exact(system, "Σλ", np.log(dt) / dt, "determinant", found.sum()),
        ]  # fmt: skip
    return rows


def noise() -> list[Row]:
    """Noise as input: multiplicative, where the exponent is an average over it, and additive, where it is exact."""
    a, b, dt, theta = 0.1, 0.5, 0.01, 0.5
    width = b * np.sqrt(dt)

    def density(z):
        return np.log(abs(1 + a * dt + width * z)) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    truth = integrate.quad(density, -10, 10, limit=400)[0] / dt
    dw = np.sqrt(dt) * jax.random.normal(KEY, (1_000_000,))
    path = fl.lyapunov_spectrum(lambda x, dw: x * (1 + a * dt + b * dw), dw, state=jnp.ones(1), time_step=dt)
    ou = fl.lyapunov_spectrum(lambda x, dw: x - theta * x * dt + dw, dw[:10_000], state=jnp.zeros(1), time_step=dt)
    return [
        average("x (1 + 0.1 dt + 0.5 dW), dt = 0.01", "λ₁", truth, "quadrature", path),
        exact("Ornstein-Uhlenbeck, θ = 0.5, dt = 0.01", "λ₁", np.log(1 - theta * dt) / dt,
              "log(1 - θ dt)/dt", ou.exponents[0]),
    ]  # fmt: skip


def stroboscopic_duffing() -> list[Row]:
    """One step is one period of the force: the damping gives the sum of the exponents."""
    period, substeps = 2 * np.pi, 400
    dt = period / substeps
    flow = fl.flows.rk4(lambda h, _, t: jnp.stack([h[1], h[0] - h[0] ** 3 - 0.2 * h[1] + 0.3 * jnp.cos(t)]), dt)

    def once_around(h, _):
        return jax.lax.scan(lambda h, at: (flow(h, at), None), h, fl.flows.clock(substeps, dt))[0]

    found = fl.lyapunov_spectrum(once_around, None, state=jnp.array([0.1, 0.2]), steps=1_000).exponents
    return [exact("stroboscopic Duffing, damping 0.2", "Σλ per period", -0.2 * period, "divergence", found.sum(),
                  allowed=1e-7, because="RK4 at 400 steps a period")]  # fmt: skip


def resets() -> list[Row]:
    """A spike as an event, whose time depends on the state; as a detached subtraction; as a constant."""
    drive, threshold, dt, steps = 1.5, 1.0, 0.05, 20_000

    def flow(v, t):
        return drive + (v - drive) * jnp.exp(-t)

    def event(v, _):
        spike = jnp.log((drive - v) / (drive - threshold))
        return jnp.where(spike < dt, flow(0.0, dt - spike), flow(v, dt))

    def detached(v, _):
        v = flow(v, dt)
        return v - jax.lax.stop_gradient(threshold * (v >= threshold).astype(v.dtype))

    def constant(v, _):
        v = flow(v, dt)
        return jnp.where(v >= threshold, 0.0, v)

    rows = []
    for name, step, truth, allowed, because in (
        ("as an event", event, 0, np.log(3) / (steps * dt), "(log 3) / T"),
        ("detached", detached, -1, 1e-9, "rounding"),
        ("to a constant", constant, -np.inf, 0, "exact"),
    ):
        spectrum = jax.jit(
            lambda step=step: fl.lyapunov_spectrum(
                step, None, state=jnp.zeros(1), steps=steps, transient=0, time_step=dt
            )
        )()
        rows.append(exact(f"dV/dt = 1.5 - V, reset {name}", "λ₁", truth, "closed form", spectrum.exponents[0],
                          allowed=allowed, because=because))  # fmt: skip
    return rows


def reservoirs() -> list[Row]:
    """A linear leaky reservoir that predicts two sines: the open loop, and the closed one with W + W_in W_out."""
    rng, units, alpha = np.random.default_rng(0), 40, 0.3
    weights, weights_in = 0.9 * rng.normal(size=(units, units)) / np.sqrt(units), rng.normal(size=(units, 1))
    time = np.arange(20_001)[:, None]
    signal = np.sin(0.3 * time) + np.sin(0.17 * time)

    def listen(h, s):
        return (1 - alpha) * h + alpha * (weights @ h + weights_in @ s)

    states = jax.lax.scan(lambda h, s: (listen(h, s),) * 2, jnp.zeros(units), signal[:2000])[1]
    weights_out = np.linalg.lstsq(states[500:], signal[501:2001], rcond=1e-8)[0].T
    rows = []
    for name, step, matrix in (
        ("open loop", listen, weights),
        ("closed loop", lambda h, _: listen(h, weights_out @ h), weights + weights_in @ weights_out),
    ):
        truth = np.sort(np.log(np.abs(1 - alpha + alpha * np.linalg.eigvals(matrix))))[::-1]
        run = {"state": jnp.zeros(units), "steps": 20_000, "transient": 2_000}
        found = fl.lyapunov_spectrum(step, signal, **run).exponents
        system = f"linear leaky reservoir, N = 40, {name}"
        limit = {"allowed": 5e-3, "because": "complex pairs rotate, neighbours mix: O(1/T)"}
        rows += [
            worst(system, "λ₁ to λ₄₀", truth, "eigenvalues", found, **limit),
            exact(system, "Σλ", truth.sum(), "determinant", found.sum()),
        ]
    return rows


def responses() -> list[Row]:
    """Transversal and conditional exponents: the basis lies in a subspace that the Jacobians map into itself."""
    rows, share = [], 0.6
    truth = np.log(2) + np.log(1 - share)

    def coupled(h, _):
        f = 4 * h * (1 - h)
        return (1 - share) * f + share * f.mean()

    for size, columns in ((2, [[1, -1]]), (3, [[1, -1, 0], [1, 1, -2]])):
        run = {"state": jnp.full(size, 0.3), "basis": np.array(columns, float).T, "steps": 100_000}
        found = fl.lyapunov_spectrum(coupled, None, **run).exponents
        limit = {"allowed": 1e-3, "because": "1/T"}
        rows.append(worst(f"{size} coupled logistic maps, in step", "transversal exponents", truth, "log 2 + log 0.4",
                          found, **limit))  # fmt: skip

    dt = 0.005

    def lorenz_and_response(h, _):
        x, y, z, u, w = h
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z, 10 * (y - u), u * y - 8 / 3 * w])

    start, basis = jnp.array([1.0, 2.0, 20.0, 0.0, 0.0]), np.eye(5)[:, [4, 3]]
    run = {"state": start, "steps": 60_000, "basis": basis, "interval": 10, "time_step": dt}
    found = fl.lyapunov_spectrum(fl.flows.rk4(lorenz_and_response, dt), None, **run).exponents
    rows.append(worst("Lorenz, y drives (x, z)", "conditional exponents", [-8 / 3, -10], "Pecora & Carroll (1990)",
                      found, allowed=1e-6, because="RK4 at dt = 0.005"))  # fmt: skip

    oscillators = 500

    def kuramoto(phase, _):
        cos, sin = jnp.cos(phase), jnp.sin(phase)
        return sin.mean() * cos - cos.mean() * sin

    basis = np.eye(oscillators)
    basis[:, 0] = 1
    run = {"state": jnp.full(oscillators, 0.7), "basis": basis, "steps": 50, "interval": 10, "time_step": 0.1}
    found = fl.lyapunov_spectrum(fl.flows.rk4(kuramoto, 0.1), None, **run).exponents
    rows.append(worst("identical Kuramoto, N = 500, in phase", "0, and -1 for the others",
                      np.append(0, -np.ones(oscillators - 1)), "linear stability", found, allowed=1e-6,
                      because="RK4 at dt = 0.1"))  # fmt: skip
    return rows


def oscillator() -> list[Row]:
    """z' = z exp(i omega) (1 + a (1 - |z|^2)), a complex state."""

    def step(z, _):
        return z * jnp.exp(0.7j) * (1 + 0.25 * (1 - jnp.abs(z) ** 2))

    found = fl.lyapunov_spectrum(step, None, state=jnp.array(0.8 + 0.1j), steps=5_000, transient=200).exponents
    return [worst("Stuart-Landau map, a = 1/4", "0 and log(1 - 2a)", [0, np.log(0.5)], "closed form", found)]


FAST = (delays, stroboscopic_duffing, resets, oscillator)
SLOW = (noise, reservoirs, responses)
