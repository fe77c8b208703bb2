"""Measures of the input side of torch modules and steps: linear memory, and reachability."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing._arguments import check_integer, check_share
from flossing._messages import escape_message
from flossing._spectra.linear_memory import MemoryFunction, memory_of
from flossing.pytorch._arguments import Coordinates, check_tensors, is_floating, real_numbers
from flossing.pytorch._orbits import channels_of, orbit
from flossing.pytorch._reading import read_system
from flossing.pytorch._surroundings import in_own_surroundings
from flossing.pytorch._system import ModuleSystem, StepSystem


@in_own_surroundings
@torch.no_grad()
def memory_function(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    delays: int | None = None,
    transient: int | None = None,
    folds: int = 10,
    step: Callable | None = None,
    steps: int | None = None,
    batched: bool | None = None,
) -> MemoryFunction:
    """Measure how well a linear readout of the state recovers the inputs of the last steps.

    **Arguments:** `model`, `inputs`, `state`, `step`, `steps`, `batched` as in
    [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]; `delays`, `transient`, `folds` as in
    [`flossing.memory_function`][].

    **Returns:** a [`MemoryFunction`][flossing.MemoryFunction] of NumPy arrays.

    **Raises:** `ValueError` as `lyapunov_spectrum` and `flossing.memory_function` do.

        print(flt.memory_function(torch.nn.GRU(1, 64), torch.randn(5000, 1)).capacity())
    """
    system = read_system(model, inputs, state=state, step=step, steps=steps, batched=batched)
    if not channels_of(system):
        raise ValueError("inputs must hold floating numbers to remember, got none")
    if system.lengths is not None:
        raise ValueError("inputs must be sequences of one length, got a PackedSequence: pass a padded part of them")
    single = system.batch is None
    states, numbers = orbit(system), real_numbers(system.inputs, axes=1 if single else 2)
    check_tensors("the last state", states[..., -1, :])
    arrays = [x.cpu().numpy()[None] if single else x.cpu().numpy() for x in (states, numbers)]
    return memory_of(*arrays, delays=delays, transient=transient, folds=folds)


@dataclass(frozen=True)
class Reachability:
    """How the state after the last step depends on the inputs of the last d steps; natural logarithms, on the CPU.

    - `log_norms` (d, S): the norm of the response to each of S real input channels, the newest input first; -inf
      where the state does not depend on it.
    - `log_singular_values` (m,): those of all responses together, (N, d S), descending; m = min(N, d S).
    """

    log_norms: Float[Tensor, "d S"]
    log_singular_values: Float[Tensor, " m"]

    def dimension(self, threshold: float = 1e-3) -> int:
        """The number of nonzero singular values of at least `threshold` times the largest.

        Raises ValueError for a `threshold` that is not above 0 and at most 1.
        """
        check_share("threshold", threshold)
        values = self.log_singular_values
        return int(((values >= values[0] + np.log(threshold)) & ~values.isneginf()).sum())


@in_own_surroundings
def reachability(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    delays: int | None = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> Reachability:
    """Measure how the state after the last step depends on the last inputs, along one sequence.

    **Arguments:** `model`, `inputs`, `state`, `step`, `steps` as in
    [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]; `delays` as in [`flossing.reachability`][].

    **Returns:** a [`Reachability`][flossing.pytorch.Reachability] of the dtype of the state. Jacobians are torch's, by
    reverse-mode differentiation; their products and singular values are those of `flossing.reachability`, by JAX.

    **Raises:** `ValueError` as `lyapunov_spectrum` does, for a batch, and for inputs without floating numbers.

        print(flt.reachability(torch.nn.GRU(1, 64), torch.randn(200, 1)).dimension())
    """
    system = read_system(model, inputs, state=state, step=step, steps=steps)
    channels = channels_of(system)
    if not channels:
        raise ValueError("inputs must hold floating numbers that the state can depend on, got none")
    if system.batch is not None:
        raise ValueError("inputs must be a single sequence, got a batch: call it for each")
    depth = min(-(-system.size // channels), system.length) if delays is None else delays
    check_integer("delays", depth, least=1, most=system.length, note=f" (the run has {system.length} steps)")
    by_state, by_input = _jacobians(system, depth)
    return Reachability(*_responses(by_state, by_input))


def _jacobians(system: ModuleSystem | StepSystem, depth: int) -> tuple[Float[Tensor, "d N N"], Float[Tensor, "d N S"]]:
    """The Jacobians of the last `depth` steps, by the state and by the input."""
    if isinstance(system, ModuleSystem):
        weight, _, bias, _ = system.recurrent.layers[0]
        inner = system.as_step()

        def step(state: Any, input: Tensor) -> Any:
            return inner.step(state, nn.functional.linear(input, weight, bias))

        one = replace(inner, step=step, inputs=system.inputs)
    else:
        one = system
    coordinates, state, found = Coordinates(one.state), one.state, []
    for t in range(one.length):
        input = one.input_at(t)
        if t >= one.length - depth:
            found.append(_at(one.step, coordinates, state, input))
        with torch.no_grad():
            state = one.step(state, input)
    check_tensors("the last state", state)
    by_state, by_input = zip(*found, strict=True)
    return torch.stack(by_state), torch.stack(by_input)


def _at(step: Callable, coordinates: Coordinates, state: Any, input: Any) -> tuple[Tensor, Tensor]:
    x, rest = coordinates.split(state)
    leaves, spec = pytree.tree_flatten(input)
    moving = [leaf.detach() for leaf in leaves if is_floating(leaf)]

    def flow(x: Tensor, *moving: Tensor) -> Tensor:
        each = iter(moving)
        now = [next(each) if is_floating(leaf) else leaf for leaf in leaves]
        return coordinates.split(step(coordinates.join(x, rest), pytree.tree_unflatten(now, spec)))[0]

    if any(leaf.is_complex() for leaf in moving):
        raise ValueError("inputs must be real, got complex numbers: pass their real and imaginary parts")
    with torch.enable_grad():
        by_state, *by_input = torch.autograd.functional.jacobian(flow, (x.detach(), *moving))
    return by_state, torch.cat([block.reshape(len(x), -1) for block in by_input], dim=1)


def _responses(by_state: Tensor, by_input: Tensor) -> tuple[Tensor, Tensor]:
    import jax  # imported here, when it is first needed

    from flossing._runtime.threads import one_lapack_thread
    from flossing._spectra.reachability import responses

    with jax.enable_x64(by_state.dtype == torch.float64), jax.default_device("cpu"), one_lapack_thread():
        results = jax.jit(responses)(by_state.cpu().numpy(), by_input.cpu().numpy())
        norms, values = (torch.from_numpy(np.array(result)) for result in results)
    if values.isnan().any() or values.isposinf().any():
        raise ValueError(escape_message("in the responses to the inputs"))
    return norms, values
