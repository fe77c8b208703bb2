"""Measure what a network in JAX needs to learn over a horizon."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_key
from flossing._diagnosis import Diagnosis, count_of_sequences, seconds_per_epoch, settings_for
from flossing._spectra.gates import gate_values
from flossing._spectra.gradient_norms import backpropagated_norms
from flossing._spectra.lyapunov import lyapunov_spectrum
from flossing._spectra.memory import memory_function
from flossing._tangent.coordinates import real_coordinates
from flossing._tangent.problem import set_up
from flossing._tangent.step import is_known_cell
from flossing._training.floss import floss
from flossing._types import Input, RandomKey, State
from flossing.cells import GRU, LSTM, Network, TorchRNN, VanillaRNN

MOST = 256
"""The most exponents that are measured."""


def diagnose(
    model: Any,
    inputs: Input,
    *,
    horizon: int,
    state: State = None,
    key: RandomKey | None = None,
    step: Callable | None = None,
    cost: bool = True,
) -> Diagnosis:
    """Whether a network can learn over `horizon` steps: do gradients reach back, are inputs written, and what helps.

    **Arguments:**

    - `model`, `state`, `step`: as in [`lyapunov_spectrum`][].
    - `inputs`: one sequence (T, ...), longer than `horizon`; better four times as long, or more. Its steps, in random
      order, are the white inputs of the memory function.
    - `horizon`: the longest lag of the task, in steps.
    - `key`: draws the loss whose gradient is measured, and the order of the inputs; `jax.random.key(0)` by default.
    - `cost`: also run twenty flossing epochs of a copy, to say what flossing would take.

    **Returns:** a [`Diagnosis`][]; `print` it, or call its `plot()`. A direction or a gradient counts as lost below a
    hundredth, an input as written if a linear readout recovers a fifth of its variance at the horizon.

    **Raises:** `ValueError` as `lyapunov_spectrum` does, and for a sequence that is not longer than `horizon`.

        print(fl.diagnose(cell, bits, horizon=40))
    """
    check_integer("horizon", horizon, least=1)
    check_key("key", key)
    key = jax.random.key(0) if key is None else key
    if not jax.tree_util.tree_leaves(inputs):
        raise ValueError(f"inputs must be a sequence (T, ...), got inputs={inputs!r}")
    shape = getattr(inputs, "shape", ())
    if step is None and is_known_cell(model) and len(shape) == 3:
        raise ValueError(
            f"inputs must be one sequence (T, S), got a batch of shape {shape}: pass one of them, inputs[0]"
        )
    problem = set_up(model, inputs, state=state, step=step, steps=None)
    size, length = problem.coordinates.size, problem.length
    if length <= horizon:
        raise ValueError(f"inputs must be longer than the horizon of {horizon} steps, got {length} steps")
    options = {"state": state, "step": step}
    channels = real_coordinates(jax.tree_util.tree_map(lambda s: s[0], inputs)).size
    k, window = settings_for(size, channels, horizon, length)
    has_parameters = any(map(eqx.is_inexact_array, jax.tree_util.tree_leaves(model)))
    spectrum = lyapunov_spectrum(model, inputs, k=min(size, MOST), **options)
    memory, note, capacity = _memory(model, inputs, horizon, size, channels, key, options)
    seconds = None
    if cost and channels and has_parameters:
        seconds = seconds_per_epoch(floss, model, inputs, k=k, window=window, **options)
    return Diagnosis(
        name=getattr(model, "__name__", type(model).__name__) if callable(model) and step is None else "step",
        size=size,
        channels=channels,
        horizon=horizon,
        exponents=np.asarray(spectrum.exponents),
        log_gradient=_gradient(model, inputs, min(2 * horizon, length), key, options),
        memory=memory,
        memory_note=note,
        capacity=capacity,
        write=_write(model, inputs, state) if step is None else None,
        k=k,
        window=window,
        kind=_kind(model),
        seconds=seconds,
    )


def _gradient(model: Any, inputs: Input, lags: int, key: RandomKey, options: dict[str, Any]) -> np.ndarray:
    def loss(states) -> Float[Array, ""]:
        last = real_coordinates(jax.tree_util.tree_map(lambda h: h[-1], states))
        return jnp.sum(jax.random.normal(key, last.shape, last.dtype) * last)

    log_norm = np.asarray(backpropagated_norms(model, inputs, loss, **options).log_norm)[::-1]
    return (log_norm - log_norm[0])[: lags + 1]


def _memory(
    model: Any, inputs: Input, horizon: int, size: int, channels: int, key: RandomKey, options: dict[str, Any]
) -> tuple[np.ndarray | None, str, float]:
    if not channels:
        return None, "there are no inputs to remember", 0.0
    steps = jax.tree_util.tree_leaves(inputs)[0].shape[0]
    at = jax.random.randint(key, (count_of_sequences(size, horizon), 2 * horizon + 20), 0, steps)
    white = jax.tree_util.tree_map(lambda s: jnp.asarray(s)[at], inputs)
    try:
        found = memory_function(model, white, delays=horizon, batched=True, **options)
    except ValueError as error:
        why = "the state is not stationary" if "stationary" in str(error) else error
        return None, f"what can be read of them cannot be measured: {why}", 0.0
    return found.values.mean(1), "", found.capacity().value


def _write(model: Any, inputs: Input, state: State) -> float | None:
    try:
        return float(gate_values(model, inputs, state=state)["write"].mean())
    except ValueError:
        return None


def _kind(model: Any) -> str:
    cell = model.cell if isinstance(model, Network) else model
    known = {VanillaRNN: "tanh", GRU: "gru", LSTM: "lstm"}
    if isinstance(cell, TorchRNN):
        return cell.kind.name
    name = type(cell).__name__
    return known.get(type(cell)) or {"GRUCell": "gru", "LSTMCell": "lstm"}.get(name, "")
