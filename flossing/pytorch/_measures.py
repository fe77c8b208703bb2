"""Covariant vectors, the long-term Jacobian and backpropagated gradients of torch modules and steps.

All three depend on a network only through its Jacobians. Torch computes these along the orbit; what follows is done by
the JAX side, for the linear system h_t = D_t h_{t-1} whose inputs they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from flossing._arguments import check_integer, default_transient
from flossing._messages import escape_message
from flossing.pytorch._arguments import Coordinates, check_tensors, initial_basis, real_numbers
from flossing.pytorch._reading import read_system
from flossing.pytorch._surroundings import in_own_surroundings
from flossing.pytorch._system import StepSystem
from flossing.pytorch._torch_engine import jacobians_along


@in_own_surroundings
def covariant_vectors(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    k: int | None = None,
    generator: torch.Generator | None = None,
    basis: Any = None,
    step: Callable | None = None,
    transient: int | None = None,
    backward_transient: int | None = None,
    steps: int | None = None,
    measure: Callable[[Any], Any] | None = None,
    time_step: float = 1.0,
) -> Any:
    """Compute the first `k` covariant Lyapunov vectors of a recurrent PyTorch network along one sequence.

    **Arguments:** `model`, `inputs`, `state`, `k`, `generator`, `basis`, `step`, `steps`, `transient` as in
    [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]; `backward_transient`, `measure`, `time_step` as in
    [`flossing.covariant_vectors`][], where `measure` is a function of JAX, such as [`flossing.angles_between`][].

    **Returns:** a [`CovariantVectors`][flossing.CovariantVectors] of NumPy arrays, of the dtype of the state. `states`
    are the coordinates (n, N) of the states. The Jacobians, T x N x N numbers, are in memory at once.

    **Raises:** `ValueError` as `lyapunov_spectrum` and `flossing.covariant_vectors` do, and for a batch.

        vectors = flt.covariant_vectors(torch.nn.GRU(1, 64), torch.randn(500, 1), k=4)
        print(vectors.exponents)
    """
    system = _single(model, inputs, state, step, steps)
    length = system.length
    if transient is None:
        transient = default_transient(length) if basis is None else 0
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    start = initial_basis(system.size, system.like, k=k, generator=generator, basis=basis).detach().cpu().numpy()
    options = {"basis": start, "transient": transient, "backward_transient": backward_transient}
    with _linear(system) as (fl, linear):
        found = _as_numpy(fl.covariant_vectors(**linear, **options, measure=measure, time_step=time_step))
    if found.states is None:
        return found
    states = _orbit(system)[transient : transient + len(found.log_growth)]
    return type(found)(found.exponents, found.log_growth, found.vectors, states.cpu().numpy(), found.measured)


@in_own_surroundings
def long_term_jacobian(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    horizons: Any = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> Any:
    """Measure all singular values of the long-term Jacobian T_t = D_t ... D_1 along one sequence.

    **Arguments:** `model`, `inputs`, `state`, `step`, `steps` as in
    [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]; `horizons` as in [`flossing.long_term_jacobian`][].

    **Returns:** a [`LongTermJacobian`][flossing.LongTermJacobian] of NumPy arrays, of the dtype of the state. The
    Jacobians, T x N x N numbers, are in memory at once.

    **Raises:** `ValueError` as `lyapunov_spectrum` and `flossing.long_term_jacobian` do, and for a batch.

        print(flt.long_term_jacobian(torch.nn.GRU(1, 64), torch.randn(100, 1), horizons=[1, 10, 100]).log_condition())
    """
    system = _single(model, inputs, state, step, steps)
    with _linear(system) as (fl, linear):
        return _as_numpy(fl.long_term_jacobian(**linear, horizons=horizons))


@in_own_surroundings
def backpropagated_norms(
    model: Any,
    inputs: Any,
    loss: Callable[[Any], Tensor],
    *,
    state: Any = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> Any:
    """How strongly a loss at later times depends on the state at earlier ones, along one sequence.

    **Arguments:** `model`, `inputs`, `state`, `step`, `steps` as in
    [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum]; `loss(states) -> scalar tensor`, where `states` is the
    orbit h_0 ... h_T stacked on a leading axis of T + 1, each leaf structured as `state`.

    **Returns:** a [`GradientNorms`][flossing.GradientNorms] of NumPy arrays, of the dtype of the state; nothing
    overflows. The Jacobians, T x N x N numbers, are in memory at once.

    **Raises:** `ValueError` as `lyapunov_spectrum` and `flossing.backpropagated_norms` do, and for a batch.

        norms = flt.backpropagated_norms(torch.nn.GRU(1, 64), torch.randn(100, 1), lambda h: h[-1].square().sum())
        print(norms.horizon(1e-3))
    """
    system = _single(model, inputs, state, step, steps)
    gradient = _gradient(system, loss).cpu().numpy()
    if not np.isfinite(gradient).all():
        raise ValueError("loss must have finite gradients, got NaN or infinity")
    with _linear(system) as (fl, linear):
        return _as_numpy(fl.backpropagated_norms(**linear, loss=lambda states: (states * gradient).sum()))


def _single(model: Any, inputs: Any, state: Any, step: Any, steps: int | None) -> StepSystem:
    system = read_system(model, inputs, state=state, step=step, steps=steps)
    if system.batch is not None:
        raise ValueError("inputs must be a single sequence, got a batch: call it for each")
    return system if isinstance(system, StepSystem) else system.as_step()


@contextmanager
def _linear(system: StepSystem) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The library for JAX, and the arguments that describe the linear system; JAX has the precision of the state."""
    import flossing  # JAX is imported here, when it is first needed
    from flossing.pytorch import _jax_engine

    _states(system)  # for its errors
    jacobians = jacobians_along(system.step, system.state, system.inputs, system.length).cpu()
    if not (finite := jacobians.isfinite().flatten(1).all(1)).all():
        raise ValueError(escape_message(f"at step {int(finite.int().argmin())}"))
    with _jax_engine.settings([jacobians]):
        zeros = np.zeros(system.size, jacobians.numpy().dtype)
        yield flossing, {"model": None, "inputs": jacobians.numpy(), "state": zeros, "step": _times}


def _times(_: None, h: Any, jacobian: Any) -> Any:
    return jacobian @ h


def _as_numpy(result: Any) -> Any:
    import jax

    return jax.tree_util.tree_map(np.array, result)


@torch.no_grad()
def _states(system: StepSystem) -> list[Any]:
    states = [system.state]
    for t in range(system.length):
        states.append(system.step(states[-1], system.input_at(t)))
    check_tensors("the last state", states[-1])
    return states


def _orbit(system: StepSystem) -> Float[Tensor, "times N"]:
    """The coordinates of the states h_0 ... h_T."""
    return torch.stack([real_numbers(state, axes=0) for state in _states(system)])


def _gradient(system: StepSystem, loss: Callable[[Any], Tensor]) -> Float[Tensor, "times N"]:
    """The derivative of the loss with respect to each state, as if they were free."""
    coordinates, states = Coordinates(system.state), _states(system)
    xs = torch.stack([coordinates.split(state)[0] for state in states]).detach().requires_grad_()
    with torch.enable_grad():
        joined = [coordinates.join(x, coordinates.split(state)[1]) for x, state in zip(xs, states, strict=True)]
        value = loss(pytree.tree_map(lambda *leaves: torch.stack(leaves), *joined))
        if not isinstance(value, Tensor) or value.ndim:
            raise ValueError(f"loss must return a scalar tensor, got {value!r}")
        return torch.autograd.grad(value, xs, materialize_grads=True)[0]
