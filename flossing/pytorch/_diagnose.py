"""Measure what a network in PyTorch needs to learn over a horizon."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing._arguments import check_integer
from flossing._diagnosis import Diagnosis, count_of_sequences, seconds_per_epoch, settings_for
from flossing.pytorch._arguments import real_numbers
from flossing.pytorch._floss import floss
from flossing.pytorch._gates import gate_values
from flossing.pytorch._input_side import memory_function
from flossing.pytorch._lyapunov import lyapunov_spectrum
from flossing.pytorch._measures import backpropagated_norms
from flossing.pytorch._modules import read_module, unwrapped
from flossing.pytorch._orbits import channels_of
from flossing.pytorch._reading import read_system
from flossing.pytorch._system import ModuleSystem

MOST = 256
"""The most exponents that are measured."""


def diagnose(
    model: Any,
    inputs: Any,
    *,
    horizon: int,
    state: Any = None,
    step: Callable | None = None,
    generator: torch.Generator | None = None,
    cost: bool = True,
) -> Diagnosis:
    """Say what a network needs to learn over `horizon` steps: do gradients reach back, are inputs written, what to do.

    **Arguments:** `model`, `state`, `step` as in [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]; `inputs`,
    one sequence (T, S), and the others as in [`flossing.diagnose`][]. `generator` draws the loss and the order of the
    inputs, by default one with seed 0. The cost is measured on a copy of a module; that of a step that is a function is
    not measured.

    **Returns:** a [`Diagnosis`][flossing.Diagnosis].

    **Raises:** `ValueError` as `lyapunov_spectrum` does, for a batch, and for a sequence that is not longer than
    `horizon`.

        print(flt.diagnose(torch.nn.GRU(1, 64), bits, horizon=40))
    """
    check_integer("horizon", horizon, least=1)
    if inputs is None:
        raise ValueError("inputs must be a sequence (T, S), got inputs=None")
    system = read_system(model, inputs, state=state, step=step)
    if system.batch is not None:
        raise ValueError("inputs must be a single sequence, got a batch: pass one of them")
    size, length, channels = system.size, system.length, channels_of(system)
    if length <= horizon:
        raise ValueError(f"inputs must be longer than the horizon of {horizon} steps, got {length} steps")
    draws = torch.Generator().manual_seed(0) if generator is None else generator
    options = {"state": state, "step": step}
    k, window = settings_for(size, channels, horizon, length)
    with torch.no_grad():
        spectrum = lyapunov_spectrum(model, inputs, k=min(size, MOST), **options)
    module = read_module(unwrapped(model)) if step is None else None
    memory, note, capacity = _memory(model, inputs, horizon, system, channels, draws, options)
    seconds = None
    if cost and isinstance(model, nn.Module) and any(p.requires_grad for p in unwrapped(model).parameters()):
        seconds = seconds_per_epoch(floss, copy.deepcopy(unwrapped(model)), inputs, k=k, window=window, **options)
    return Diagnosis(
        name=type(unwrapped(model)).__name__ if isinstance(model, nn.Module) else "step",
        size=size,
        channels=channels,
        horizon=horizon,
        exponents=spectrum.exponents.detach().cpu().numpy(),
        log_gradient=_gradient(model, inputs, min(2 * horizon, length), draws, options),
        memory=memory,
        memory_note=note,
        capacity=capacity,
        write=_write(model, inputs, state) if step is None else None,
        k=k,
        window=window,
        kind="" if module is None else module.kind.name,
        seconds=seconds,
        in_torch=True,
    )


def _gradient(model: Any, inputs: Any, lags: int, draws: torch.Generator, options: dict[str, Any]) -> np.ndarray:
    def loss(states: Any) -> Tensor:
        last = real_numbers(pytree.tree_map(lambda h: h[-1], states), axes=0)
        return (last * torch.randn(last.shape, generator=draws, dtype=last.dtype).to(last.device)).sum()

    first = len(pytree.tree_leaves(inputs)[0]) - lags
    if first:  # the norms need the Jacobians of all steps, so start at the state where they begin
        with torch.no_grad():
            before = lyapunov_spectrum(model, pytree.tree_map(lambda s: s[:first], inputs), k=1, **options)
        options = options | {"state": before.state}
    last = pytree.tree_map(lambda s: s[first:], inputs)
    log_norm = backpropagated_norms(model, last, loss, **options).log_norm[::-1]
    return log_norm - log_norm[0]


def _memory(
    model: Any, inputs: Any, horizon: int, system: Any, channels: int, draws: torch.Generator, options: dict[str, Any]
) -> tuple[np.ndarray | None, str, float]:
    if not channels:
        return None, "there are no inputs to remember", 0.0
    is_module = isinstance(system, ModuleSystem)
    shape = (count_of_sequences(system.size, horizon), 2 * horizon + 20)
    at = torch.randint(system.length, shape, generator=draws)
    at = at.T if is_module and system.recurrent.batch_axis == 1 else at
    white = pytree.tree_map(lambda s: s[at.to(s.device)], inputs)
    if is_module and options["state"] is not None:
        many = pytree.tree_map(lambda h: h.unsqueeze(-2).expand(*h.shape[:-1], shape[0], h.shape[-1]), options["state"])
        options = options | {"state": many}
    try:
        found = memory_function(model, white, delays=horizon, batched=None if is_module else True, **options)
    except ValueError as error:
        why = "the state is not stationary" if "stationary" in str(error) else error
        return None, f"what can be read of them cannot be measured: {why}", 0.0
    return found.values.mean(1), "", found.capacity().value


def _write(model: Any, inputs: Any, state: Any) -> float | None:
    try:
        return float(gate_values(model, inputs, state=state)["write"].mean())
    except ValueError:
        return None
