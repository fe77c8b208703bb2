"""Networks flossed and measured: the calculations behind the figures that train on no task.

Flossing runs in float32, as in the runs; measurements before and after it are in float64.
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from flossing import losses
from flossing._spectra.gradient_norms import backpropagated_norms
from flossing._spectra.jacobian import LongTermJacobian, long_term_jacobian
from flossing._spectra.lyapunov import lyapunov_spectrum
from flossing._training.floss import floss
from flossing.cells import BinaryRNN, VanillaRNN
from flossing_lab.paper.calculations.ball_arithmetic import exact_log_singular_values
from flossing_lab.reference.task import FlossingInputs

Kind = Literal["vanilla", "binary"]
Cell = VanillaRNN | BinaryRNN

WARMUP_STEPS = 100
"""Steps before a measurement starts, and again the transient of the exponents."""


def flossed_networks(
    kind: Kind,
    networks: int,
    units: int,
    gains: Sequence[float] | None,
    k: int,
    target: float,
    epochs: int,
    window: int,
    learning_rate: float,
    steps: int,
    horizons: Sequence[int],
) -> dict[str, np.ndarray]:
    """Draw networks with seeds 1, 2, ..., floss the first `k` exponents of each towards `target`, and measure them.

    `k` = 0 measures the networks without flossing. `gains`: one gain for each network, 1 if None. Each flossing epoch
    draws a fresh sequence of `window` random bits and takes one Adam step with `learning_rate`. Measurements use other
    bits, the same for every `k`, after 100 discarded steps:

    - `along` (networks, epochs, k): exponents in each flossing epoch, before its update;
    - `exponents` (networks, units): the full spectrum over `steps` steps;
    - `log_singular_values` (networks, horizons, units) of the long-term Jacobian, natural logarithm;
    - `log_feedback` (networks, horizons): log |dL/dh| at each horizon back from the last step, where L is a fixed
      random projection of the state and |dL/dh| = 1.
    """
    found: dict[str, list[np.ndarray]] = {}
    for index in range(networks):
        gain = 1.0 if gains is None else gains[index]
        cell, along = draw_and_floss(kind, index + 1, units, gain, k, target, epochs, window, learning_rate)
        with jax.enable_x64(True):
            measured = _measure(to_float64(cell), measuring_bits(index + 1, steps), tuple(horizons))
        for name, array in {"along": along, **measured}.items():
            found.setdefault(name, []).append(np.asarray(array))
    return {name: np.stack(arrays) for name, arrays in found.items()}


def extended_precision(
    units: int, k: int, epochs: int, window: int, learning_rate: float, steps: int, horizons: Sequence[int]
) -> dict[str, np.ndarray]:
    """Log singular values of the long-term Jacobian of the first network, computed by two independent methods.

    `ours` and `exact` (horizons, units), natural logarithm; `exact` uses ball arithmetic and needs python-flint.
    Network and bits are those of `flossed_networks` with the same arguments.
    """
    cell, _ = draw_and_floss("vanilla", 1, units, 1.0, k, 0.0, epochs, window, learning_rate)
    with jax.enable_x64(True):
        cell, bits = to_float64(cell), measuring_bits(1, steps)
        ours, jacobians = _jacobians(cell, bits, tuple(horizons))
        exact = [
            exact_log_singular_values(np.asarray(jacobians[:t]), float(guess))
            for t, guess in zip(horizons, ours.log_condition(), strict=True)
        ]
        return {"ours": np.asarray(ours.log_singular_values), "exact": np.stack(exact)}


def drawn_or_flossed(seed: int, units: int, k: int, epochs: int, window: int, learning_rate: float) -> VanillaRNN:
    """The network with this seed, its first `k` exponents flossed to 0; not flossed if `k` = 0."""
    cell, _ = draw_and_floss("vanilla", seed, units, 1.0, k, 0.0, epochs, window, learning_rate)
    assert isinstance(cell, VanillaRNN)
    return cell


def draw_and_floss(
    kind: Kind, seed: int, units: int, gain: float, k: int, target: float, epochs: int, window: int, rate: float
) -> tuple[Cell, Float[np.ndarray, "epochs k"]]:
    """Draw a network and floss it; return it, and the exponents in each epoch."""
    with jax.enable_x64(False):
        network_key, flossing_key = jax.random.split(jax.random.key(seed))
        make = VanillaRNN if kind == "vanilla" else BinaryRNN
        cell = make(units, key=network_key, gain=gain)
        if k == 0:
            return cell, np.zeros((epochs, 0))
        inputs, state = FlossingInputs(window, 1, 1.0), cell.zeros()
        options: dict[str, Any] = {
            "k": k,
            "epochs": epochs,
            "target": target,
            "loss": losses.exponents,
            "optimiser": optax.adam(rate),
            "clip": None,
        }
        cell, history = floss(cell, inputs, state=state, key=flossing_key, report=False, **options)
        return cell, history.exponents


def measuring_bits(seed: int, steps: int) -> Float[Array, "T 1"]:
    """Random bits to measure along, always the same for a seed: two warm-ups, then `steps`."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return jax.random.bernoulli(key, shape=(2 * WARMUP_STEPS + steps, 1)).astype(float)


def to_float64(model: Any) -> Any:
    """The model with all arrays in float64."""
    return jax.tree_util.tree_map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), model)


def settled(cell: Cell, bits: Float[Array, "T 1"]) -> Float[Array, " N"]:
    """The state after the first warm-up."""
    return lax.scan(lambda h, s: (cell(s, h), None), cell.zeros(), bits[:WARMUP_STEPS])[0]


@eqx.filter_jit
def _measure(cell: Cell, bits: Float[Array, "T 1"], horizons: tuple[int, ...]) -> dict[str, Array]:
    state, bits = settled(cell, bits), bits[WARMUP_STEPS:]
    spectrum = lyapunov_spectrum(cell, bits, state=state, transient=WARMUP_STEPS)
    measured = {"exponents": spectrum.exponents}
    if horizons:
        bits = bits[: max(horizons)]
        projection = jax.random.normal(jax.random.key(0), state.shape)
        projection = projection / jnp.linalg.norm(projection)
        norms = backpropagated_norms(cell, bits, lambda h: h[-1] @ projection, state=state).log_norm[::-1]
        measured["log_feedback"] = norms[np.asarray(horizons)]
        measured["log_singular_values"] = long_term_jacobian(
            cell, bits, state=state, horizons=horizons
        ).log_singular_values
    return measured


@eqx.filter_jit
def _jacobians(
    cell: Cell, bits: Float[Array, "L 1"], horizons: tuple[int, ...]
) -> tuple[LongTermJacobian, Float[Array, "T N N"]]:
    state, bits = settled(cell, bits), bits[WARMUP_STEPS : WARMUP_STEPS + max(horizons)]

    each = lax.scan(lambda h, s: (cell(s, h), jax.jacfwd(lambda h: cell(s, h))(h)), state, bits)[1]
    return long_term_jacobian(cell, bits, state=state, horizons=horizons), each
