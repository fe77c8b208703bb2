"""Recurrent networks: random tanh networks, the reference experiment, and gated cells with known exponents."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, optimize

import flossing as fl
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from verification.rows import Row, ensemble, exact, worst

KEY = jax.random.key(22)
SOURCE = "Sompolinsky, Crisanti & Sommers (1988)"


def _coupling(units, gain, key):
    return gain * jax.random.normal(key, (units, units)) / np.sqrt(units)


def _tanh_exponents(units, gain, key, *, k=1, steps=2000, transient=500):
    J = _coupling(units, gain, key)
    start = jax.random.normal(jax.random.fold_in(key, 1), (units,))
    options = {"k": k, "steps": steps, "transient": transient}
    return fl.lyapunov_spectrum(lambda h, s: J @ jnp.tanh(h), None, state=start, **options).exponents


def identities() -> list[Row]:
    units = 40
    J = _coupling(units, 1.5, KEY)
    start, steps = jax.random.normal(KEY, (units,)), 100

    def step(h, s):
        return J @ jnp.tanh(h)

    orbit = jax.lax.scan(lambda h, _: (step(h, None), h), start, length=steps)[1]
    log_det = np.linalg.slogdet(jax.vmap(jax.jacfwd(lambda h: step(h, None)))(orbit))[1].mean()
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(units, units)))[0]
    full = fl.lyapunov_spectrum(step, None, state=start, steps=steps, basis=basis)
    part = fl.lyapunov_spectrum(step, None, state=start, steps=steps, basis=basis[:, :11])
    three = fl.lyapunov_spectrum(step, None, state=start, steps=steps, basis=basis[:, :11], interval=3)
    summed = np.add.reduceat(np.asarray(part.log_growth), np.arange(0, steps, 3), axis=0)
    name = "h' = J tanh(h), N = 40, 100 steps"
    return [
        exact(name, "Σλ = ⟨log|det D|⟩", log_det, "determinant", full.exponents.sum()),
        worst(name, "λ₁ to λ₁₁: run with k = 11", full.exponents[:11], "nesting of QR", part.exponents),
        worst(name, "QR every 3 steps = every step, summed", summed, "uniqueness of QR", three.log_growth),
    ]


def stable_network() -> list[Row]:
    """g < 1: the orbit decays to 0. The exponents are log|eig(J)|, with eigenvalues on the circular law."""
    units, gain = 200, 0.5
    values = np.stack([
        np.sort(np.log(np.abs(np.linalg.eigvals(np.asarray(_coupling(units, gain, jax.random.fold_in(KEY, i)))))))[::-1]
        for i in range(12)
    ])  # fmt: skip
    ours = _tanh_exponents(units, gain, jax.random.fold_in(KEY, 0), k=100, steps=4000, transient=2000)
    rows = [worst("h' = J tanh(h), g = 0.5, N = 200", "first 100 λᵢ = log|eigᵢ(J)|", values[0][:100], "linearisation",
                  ours, allowed=5e-3, because="O(1/T)")]  # fmt: skip
    many = np.stack([
        _tanh_exponents(units, gain, jax.random.fold_in(KEY, i), k=100, steps=1500, transient=750) for i in range(12)
    ])  # fmt: skip
    for i in (50, 100):
        formula = np.log(gain) + 0.5 * np.log(1 - i / units)
        rows.append(ensemble("h' = J tanh(h), g = 0.5, N = 200, 12 networks", f"λ at i/N = {i / units:g}", formula,
                             "circular law", many[:, i - 1], systematic=1 / units, because="1/N"))  # fmt: skip
    return rows


def mean_field(gain: float) -> float:
    """lambda_1 = log(g sqrt<phi'^2>) at the self-consistent variance s^2 = g^2 <tanh^2>."""

    def moment(f, s):
        return integrate.quad(lambda z: np.exp(-z * z / 2) * f(s * z), -12, 12, limit=400)[0] / np.sqrt(2 * np.pi)

    s = optimize.brentq(lambda s: s * s - gain**2 * moment(lambda h: np.tanh(h) ** 2, s), 1e-3, 2 * gain)
    return np.log(gain) + 0.5 * np.log(moment(lambda h: (1 - np.tanh(h) ** 2) ** 2, s))


def mean_field_values() -> list[Row]:
    table = {1.1: 0.00507, 1.5: 0.06522, 2: 0.15472, 3: 0.31025, 5: 0.53243, 10: 0.85644}
    return [
        exact(f"mean-field equations, g = {gain:g}", "λ₁, N → ∞", value, "our earlier quadrature", mean_field(gain),
              allowed=1e-5, because="digits of the reference")
        for gain, value in table.items()
    ]  # fmt: skip


def mean_field_networks() -> list[Row]:
    """λ₁ of a finite network lies below the mean-field value; the difference shrinks with N."""
    rows = []
    for gain in (1.5, 2.0, 3.0):
        for units, nets in ((250, 16), (500, 8), (1000, 4)):
            keys = [jax.random.fold_in(KEY, 100 * i + units) for i in range(nets)]
            values = [_tanh_exponents(units, gain, key)[0] for key in keys]
            name = f"h' = J tanh(h), g = {gain:g}, N = {units}, {nets} networks"
            rows.append(ensemble(name, "λ₁", mean_field(gain), SOURCE, values, systematic=6 / units,
                                 because="finite N: at most 6/N"))  # fmt: skip
    return rows


def leaky_network() -> list[Row]:
    units, dt, values = 80, 0.1, []
    for i in range(6):
        J = _coupling(units, 2.0, jax.random.fold_in(KEY, i))
        J = J - jnp.diag(jnp.diagonal(J))
        start = jax.random.normal(jax.random.fold_in(KEY, i), (units,))
        options = {"steps": 3000, "transient": 500, "time_step": dt}

        def step(h, s, J=J):
            return (1 - dt) * h + dt * J @ jnp.tanh(h)

        values.append(fl.lyapunov_spectrum(step, None, state=start, **options).exponents.mean())
    name = "leaky h' = (1-dt) h + dt J tanh(h), dt = 0.1, N = 80, g = 2, 6 networks"
    return [ensemble(name, "mean λ = log(0.9)/0.1", np.log(0.9) / 0.1, "zero diagonal: det D ≈ (1-dt)^N", values,
                     systematic=1e-3, because="second order in dt")]  # fmt: skip


def reference_at_start() -> list[Row]:
    values = []
    for seed in range(1, 11):
        names = ("seed_network", "seed_initial", "seed_input", "seed_basis")
        config = Config().with_values(steps=2000, **dict.fromkeys(names, seed))
        exponents = reference.measure_spectrum(reference.build(config).model, config).exponents
        values.append(np.asarray(exponents, float)[[0, 9, 39, 74]])
    values = np.stack(values)
    # The reference itself is a mean over ten networks, with a scatter of about 0.04 (0.24 for the 75th exponent).
    scatter = values.std(0, ddof=1) / np.sqrt(10)
    targets = (("λ₁", -0.325), ("λ₁₀", -0.42), ("λ₄₀", -0.87), ("λ₇₅", -2.53))
    return [
        ensemble("reference experiment before training, 10 networks", name, value, "earlier implementation",
                 values[:, i], systematic=4 * scatter[i] * (np.sqrt(2) - 1), because="4 s.e. of the other 10 networks")
        for i, (name, value) in enumerate(targets)
    ]  # fmt: skip


def float32_against_float64() -> list[Row]:
    """The reference network in both precisions, from the same basis."""
    config = Config().with_values(dtype="float64")
    model = reference.build(config).model
    inputs = np.asarray(jax.random.bernoulli(KEY, shape=(300, 1)), float)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(80, 75)))[0]
    pair = []
    for dtype in ("float64", "float32"):
        network = jax.tree_util.tree_map(lambda x, d=dtype: x.astype(d), model)
        options = {"basis": basis.astype(dtype), "transient": 40}

        def step(h, s, n=network):
            return n.network(s, h)

        state = reference.first_state(network)
        pair.append(fl.lyapunov_spectrum(step, inputs.astype(dtype), state=state, **options).exponents)
    return [worst("reference network, float32 against float64", "λ₁ to λ₇₅", pair[0], "float64 run", pair[1],
                  allowed=1e-4, because="rounding of float32")]  # fmt: skip


def gated_cells() -> list[Row]:
    """With zero recurrent weights the Jacobian is set by the forget gate; each row gives the resulting exponents."""
    inputs = jax.random.normal(KEY, (3000, 3))
    gru = eqx.nn.GRUCell(3, 6, key=KEY)
    gru = eqx.tree_at(lambda c: c.weight_hh, gru, jnp.zeros_like(gru.weight_hh))
    ours = fl.lyapunov_spectrum(lambda h, s: gru(s, h), inputs, state=jnp.zeros(6), basis=np.eye(6)).exponents
    update = jax.nn.sigmoid(inputs @ gru.weight_ih.T + gru.bias)[:, 6:12]
    rows = [worst("GRU, zero recurrent weights", "λᵢ = ⟨log zᵢ⟩", np.log(update).mean(0), "D = diag(z)", ours)]

    # Of the 2N directions of (h, c), those of h are lost in the first step, since the new h depends only on c.
    lstm = eqx.nn.LSTMCell(3, 4, key=KEY)
    lstm = eqx.tree_at(lambda c: c.weight_hh, lstm, jnp.zeros_like(lstm.weight_hh))
    start = (jnp.zeros(4), jnp.zeros(4))
    exponents = fl.lyapunov_spectrum(lambda hc, s: lstm(s, hc), inputs, state=start, transient=100).exponents
    forget = jax.nn.sigmoid(inputs @ lstm.weight_ih.T + lstm.bias)[100:, 4:8]
    rates = np.sort(np.log(forget).mean(0))[::-1]
    name = "LSTM, zero recurrent weights"
    rows.append(
        worst(name, "λ₁ to λ₄ = ⟨log fᵢ⟩", rates, "c' = f c + i g", exponents[:4], allowed=2e-3, because="O(1/T)")
    )
    rows.append(exact(name, "λ₅ to λ₈ = −∞", -np.inf, "h depends on c alone", exponents[4:].max()))

    poles = jnp.array([0.9 + 0.3j, 0.5 - 0.5j, 0.1j])
    pairs = np.eye(6)[:, [0, 3, 1, 4, 2, 5]]
    driven = inputs.astype(complex)
    unit = fl.lyapunov_spectrum(lambda z, s: poles * z + s, driven, state=jnp.zeros(3, complex), basis=pairs)
    moduli = np.repeat(np.log(np.abs(poles)), 2)
    rows.append(worst("diagonal linear recurrent unit", "pairs of log|aᵢ|", moduli, "exact", unit.exponents))
    return rows


def dimension_against_size() -> list[Row]:
    """D grows in proportion to N: D/N at N = 100 and 200 against N = 400, all at g = 3."""
    densities = {}
    for units, nets in ((400, 2), (200, 4), (100, 8)):
        values = []
        for i in range(nets):
            exponents = _tanh_exponents(units, 3.0, jax.random.fold_in(KEY, i + units), k=units // 2, steps=1500)
            values.append(float(fl.kaplan_yorke_dimension(exponents)) / units)
        densities[units] = values
    largest = float(np.mean(densities.pop(400)))
    return [
        ensemble(f"h' = J tanh(h), g = 3, N = {units}, {len(values)} networks", "Kaplan-Yorke dimension / N", largest,
                 "our runs at N = 400; D_KY ∝ N (Engelken et al. 2023)", values, systematic=2 / units, because="2/N")
        for units, values in densities.items()
    ]  # fmt: skip


FAST = (identities, mean_field_values, leaky_network, float32_against_float64, gated_cells)
SLOW = (stable_network, mean_field_networks, reference_at_start, dimension_against_size)
