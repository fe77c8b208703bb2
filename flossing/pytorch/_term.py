"""The flossing term of a training loss: its value and its gradient, both computed when it is asked for."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flossing._messages import OVERFLOW_MESSAGE
from flossing._term import FlossingTerm
from flossing.pytorch._draw import Draw
from flossing.pytorch._epoch import prepare
from flossing.pytorch._reading import read_system
from flossing.pytorch._surroundings import evaluating, in_own_surroundings
from flossing.pytorch._system import Engine
from flossing.pytorch.losses import explain, exponents

Gradients = list[Tensor | None]


@in_own_surroundings
def value_and_gradients(
    module: nn.Module,
    draw: Draw,
    term: FlossingTerm,
    parameters: list[Tensor],
    *,
    window: int,
    seeds: tuple[int, int],
    interval: int | Literal["auto"],
    engine: Engine,
    **options: Any,
) -> tuple[Tensor, Gradients, Tensor]:
    """The term on drawn sequences, its gradients, None for parameters without one, and the exponents.

    The seeds draw the initial basis, and the white inputs of a memory term. Raises FloatingPointError if anything is
    not finite, ValueError if no parameter enters the step.
    """
    basis = torch.Generator().manual_seed(seeds[0])
    loss = exponents if term.loss is None else term.loss
    with evaluating(module), torch.enable_grad():
        read = {"batched": draw.batched, "steps": window, "steps_name": "window", "trial": False, "engine": engine}
        system = read_system(module, draw.inputs(), state=draw.state(), **read)
        objective, found = prepare(system, module, generator=basis, basis=None, loss=loss, **options)
        interval, system = 1 if interval == "auto" else interval, replace(system.start(window), **found)
        value, measured, _ = objective._replace(seed=seeds[1])(system, interval)
        if not measured.isfinite().all():
            raise FloatingPointError(f"flossing term: {explain(measured, interval)}")
        value = term.weight * value
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    if all(g is None for g in gradients):
        raise ValueError("parameters must enter the step, got none that the exponents depend on")
    if not all(g is None or g.isfinite().all() for g in gradients):
        raise FloatingPointError(f"flossing term: {OVERFLOW_MESSAGE}")
    return value.detach(), list(gradients), measured.detach()


def with_gradients(value: Tensor, gradients: Gradients, parameters: list[Tensor]) -> Tensor:
    """`value`, with these gradients of the parameters in a backward pass."""
    return _WithGradients.apply(value, gradients, *parameters)  # pyright: ignore[reportReturnType]


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Gradients, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *(None if g is None else cotangent * g for g in ctx.gradients)
