"""One flossing epoch in torch: its parameters, its loss, and the update by any optimiser of torch.optim."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing._arguments import check_loss
from flossing._messages import OVERFLOW_MESSAGE
from flossing.pytorch._arguments import check_transient, initial_basis, own_transient, read_target
from flossing.pytorch._modules import unwrapped
from flossing.pytorch._orbits import channels_of, white
from flossing.pytorch._spread import spread_ratio
from flossing.pytorch._subspace import restrict
from flossing.pytorch._system import ModuleSystem, StepSystem, System
from flossing.pytorch._torch_engine import Method, check_gradient, choose_method
from flossing.pytorch.losses import KeepAndWrite, Loss, Measured, Memory, explain, loss_parts


def select_parameters(model: Any, parameters: Any, optimiser: Any) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """The parameters to floss, and the optimiser that steps them."""
    if parameters is None:
        if not isinstance(model, nn.Module):
            raise ValueError("parameters must be given for a step that is a function, got parameters=None")
        parameters = unwrapped(model).parameters()
    legal = "parameters must be a list of tensors, such as list(model.parameters())"
    if isinstance(parameters, Tensor):
        raise ValueError(f"{legal}, got a single tensor")
    chosen = list(parameters)
    if others := [p for p in chosen if not isinstance(p, Tensor)]:
        raise ValueError(f"{legal}, got one with a {type(others[0]).__name__}")
    chosen = list({id(p): p for p in chosen}.values())  # a shared parameter counts once
    trained = [p for p in chosen if p.requires_grad]
    if not trained:
        raise ValueError("parameters must include one that requires a gradient, got none")
    made = optimiser if isinstance(optimiser, torch.optim.Optimizer) else _made(optimiser, trained)
    held = {id(p) for group in made.param_groups for p in group["params"]}
    flossed = [p for p in trained if id(p) in held]
    if not flossed:
        raise ValueError("parameters must include one that requires a gradient and that the optimiser holds, got none")
    return flossed, made


def _made(make: Any, flossed: list[Tensor]) -> torch.optim.Optimizer:
    """The optimiser that `make` creates for these parameters."""
    made = make(flossed) if callable(make) else make
    if not isinstance(made, torch.optim.Optimizer):
        legal = "an optimiser of torch.optim, or a class or function that creates one, such as torch.optim.Adam"
        raise ValueError(f"optimiser must be {legal}, got {made!r}")
    return made


def method_with_gradient(system: StepSystem, basis: Tensor) -> Method:
    """The method that runs a step of one's own; ValueError if none has a gradient."""
    one = system if system.batch is None else system.sequence(0)
    with torch.enable_grad():
        method = choose_method(one.step, one.state, one.inputs, basis)
        check_gradient(one.step, one.state, one.inputs, basis, method)
    return method


def entering(system: System, flossed: list[Tensor]) -> list[bool]:
    """Which parameters the step depends on; ValueError if it depends on none."""
    step = system if isinstance(system, StepSystem) else system.as_step()
    one = step if step.batch is None else step.sequence(0)
    with torch.enable_grad():
        found = _leaves_of(pytree.tree_leaves(one.step(one.state, one.input_at(0))))
    used = [id(parameter) in found for parameter in flossed]
    if not any(used):
        raise ValueError("parameters must enter the step, got none that the exponents depend on")
    return used


def _leaves_of(tensors: list[Tensor]) -> set[int]:
    """The ids of the leaves that these tensors depend on; a walk through their graph, which calls no hooks."""
    nodes, seen, found = [t.grad_fn for t in tensors if t.grad_fn is not None], set(), set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))  # the leaf itself, at the end of the graph
        nodes += [following for following, _ in node.next_functions if following is not None]
    return found


def describe_flossed(model: Any, flossed: list[Tensor], used: list[bool]) -> str:
    """What flossing changes, in one line: names and shapes."""
    named = unwrapped(model).named_parameters() if isinstance(model, nn.Module) else ()
    names = {id(parameter): name for name, parameter in named}
    labels = [names.get(id(p), f"parameters[{i}]") for i, p in enumerate(flossed)]
    enter = zip(labels, flossed, used, strict=True)
    changed = ", ".join(f"{label} {tuple(p.shape)}" for label, p, enters in enter if enters)
    unused = ", ".join(label for label, enters in zip(labels, used, strict=True) if not enters)
    return f"floss changes {changed}" + (f"; without effect on the step: {unused}" if unused else "")


class Objective(NamedTuple):
    """The flossing loss, the exponents and the spread ratios of a system at an interval."""

    model: Any
    basis: Tensor
    target: Tensor
    transient: int | None
    tolerance: float | None
    loss: Loss
    seed: int = 0
    """Draws the white inputs of an epoch; the same each time its loss is evaluated."""

    def __call__(self, system: System, interval: int) -> tuple[Tensor, Tensor, np.ndarray]:
        with torch.enable_grad():
            if isinstance(system, ModuleSystem) and system.is_compiled(self.basis):
                compiled = self._compiled(system, interval)
                if compiled is not None:
                    return compiled
            flow = system.flow(self.basis, transient=self.transient, interval=interval)
            loss = self.loss(self._measured(system, flow.exponents))
            if not isinstance(loss, Tensor) or loss.ndim:
                got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
                raise ValueError(f"loss must return a scalar tensor, got {got}")
            if not loss.requires_grad:
                raise ValueError("loss must depend on the flossed parameters, got a tensor without a gradient")
            growth = torch.cat([flow.transient_log_growth, flow.log_growth], dim=-2).detach()
            return loss, flow.exponents, spread_ratio(growth, self.tolerance)

    def _measured(self, system: System, exponents: Tensor) -> Measured:
        transient = own_transient(self.transient, system.length)
        return Measured(exponents, self.target, self.model, system, transient, self._generator())

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _compiled(self, system: ModuleSystem, interval: int) -> tuple[Tensor, Tensor, np.ndarray] | None:
        """The losses of this package on the JAX engine; None for others."""
        parts = loss_parts(self.loss)
        if parts is None:
            return None
        from flossing.pytorch import _jax_engine

        weight, memory = parts
        transient = own_transient(self.transient, system.length)
        plan = None if memory is None else memory.plan(system, self.basis.shape[-1], transient)
        probes = None if plan is None else white(system, plan.count, self._generator())
        term = None if memory is None or plan is None else (plan.delays, plan.first, memory.noise)
        options = {"transient": self.transient, "interval": interval, "tolerance": self.tolerance}
        options |= {"weight": weight, "memory": term, "probes": probes}
        loss, exponents, ratio = _jax_engine.objective(system, self.basis, self.target, **options)
        return loss, exponents, ratio.numpy()


def prepare(
    system: System,
    model: Any,
    *,
    k: int | None,
    generator: torch.Generator | None,
    basis: Any,
    transient: int | None,
    target: Any,
    tolerance: float | None,
    loss: Loss | None,
) -> tuple[Objective, dict[str, Any]]:
    """The checked objective of all epochs, and the fields of each epoch's system that a basis and a step determine."""
    length = system.length
    own = own_transient(transient, length)
    check_transient(own, transient, length, system.lengths, "window")
    first = initial_basis(system.size, system.like, k=k, generator=generator, basis=basis)
    found: dict[str, Any] = {"subspace": None if basis is None else restrict(system, first, own).subspace}
    if isinstance(system, StepSystem):
        found["method"] = method_with_gradient(system, first)
    if loss is not None:
        check_loss(loss, "flossing.pytorch.losses", "flossing.losses")
    chosen = KeepAndWrite() if loss is None else loss
    if isinstance(chosen, Memory) and not channels_of(system):
        raise ValueError("loss must have inputs to remember, got inputs without floating numbers and losses.Memory")
    shared = own if system.lengths is None else transient
    return Objective(model, first, read_target(target, first[0]), shared, tolerance, chosen), found


def update(
    loss: Tensor,
    exponents: Tensor,
    again: Callable[[], Tensor],
    flossed: list[Tensor],
    optimiser: torch.optim.Optimizer,
    clip: float | None,
    epoch: int,
    interval: int,
) -> float:
    """One step of the optimiser -> the norm of the gradient before clipping. Raises before the step if anything is not
    finite. `again` computes the loss anew, for an optimiser that evaluates it several times."""
    if not exponents.isfinite().all():
        raise FloatingPointError(f"flossing epoch {epoch}: {explain(exponents, interval)}")
    optimiser.zero_grad()
    norm = _backward(loss, flossed, clip)
    if math.isfinite(norm):
        if _wants_closure(optimiser):
            optimiser.step(lambda: _evaluate(again, optimiser, flossed, clip))  # pyright: ignore[reportCallIssue, reportArgumentType] (LBFGS takes a tensor)
        else:
            optimiser.step()
    optimiser.zero_grad()
    if not math.isfinite(norm):
        raise FloatingPointError(f"flossing epoch {epoch}: {OVERFLOW_MESSAGE}")
    return norm


def _backward(loss: Tensor, flossed: list[Tensor], clip: float | None) -> float:
    """Fill the gradients, clipped; and the norm before clipping."""
    loss.backward(inputs=flossed)
    norm = _norm([p.grad for p in flossed if p.grad is not None])
    if clip is not None and norm > clip:
        for p in flossed:  # as optax does it; torch's own clipping adds 1e-6 to the norm
            p.grad = None if p.grad is None else p.grad * (clip / norm)  # hooks may have kept the gradient itself
    return norm


def _evaluate(
    again: Callable[[], Tensor], optimiser: torch.optim.Optimizer, flossed: list[Tensor], clip: float | None
) -> Tensor:
    optimiser.zero_grad()
    with torch.enable_grad():
        loss = again()
    _backward(loss, flossed, clip)
    return loss.detach()


def _wants_closure(optimiser: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(type(optimiser).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _norm(gradients: list[Tensor]) -> float:
    """The norm of all gradients together, scaled by the largest entry, so squares overflow only if the norm does."""
    largest = torch.stack([g.abs().max() for g in gradients]).max() if gradients else torch.zeros(())
    if not 0 < largest < math.inf:
        return largest.item()
    return (largest * torch.stack([(g / largest).norm() for g in gradients]).norm()).item()
