"""Gated modules of torch: the values of their gates along an orbit, and a start with open gates."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flossing._arguments import check_positive
from flossing._equations import GATES, gates
from flossing.pytorch._modules import read_module, unwrapped
from flossing.pytorch._reading import read_system
from flossing.pytorch._surroundings import in_own_surroundings
from flossing.pytorch._system import ModuleSystem

CANDIDATE = 2
"""The block of the weights, from 0, that makes the new content, in a GRU as in an LSTM."""


@in_own_surroundings
@torch.no_grad()
def gate_values(
    model: Any, inputs: Any, *, state: Any = None, steps: int | None = None
) -> dict[str, Float[Tensor, "T ..."]]:
    """The values of the gates of a GRU or an LSTM at each step along one sequence, from 0, closed, to 1, open.

    **Arguments:** `model`, an `nn.GRU`, an `nn.LSTM` or one of their cells; `inputs` (T, S), `state`, `steps` as in
    [`lyapunov_spectrum`][flossing.pytorch.lyapunov_spectrum].

    **Returns:** a dictionary of tensors, (T, layers, H) for a module and (T, H) for a cell. GRU: `write`, the share
    1 - z of the new content in the next state, and `reset`. LSTM: `write` (input gate), `keep` (forget gate), `show`
    (output gate). A network whose `write` is near 0 keeps its state and takes nothing in.

    **Raises:** `ValueError` as `lyapunov_spectrum` does, for a batch, and for a model without such gates.

        print({name: values.mean().item() for name, values in flt.gate_values(module, inputs).items()})
    """
    gated = read_module(unwrapped(model))
    if gated is None or gated.kind.name not in GATES:
        raise ValueError(f"model must be a GRU or an LSTM of torch.nn, got {type(model).__name__}")
    system = read_system(model, inputs, state=state, steps=steps, trial=False)
    assert isinstance(system, ModuleSystem)
    if system.batch is not None:
        raise ValueError(f"inputs must be a single sequence (T, S), got shape {tuple(system.inputs.shape)}")
    one, found = system.as_step(), []
    at = one.state
    for t in range(system.length):
        after = one.step(at, one.input_at(t))
        found.append(gates(torch, gated.kind, gated.layers, at, after, one.input_at(t)))
        at = after
    return {name: torch.stack([step[name] for step in found]) for name in found[0]}


@torch.no_grad()
def open_gates(
    module: nn.Module,
    *,
    bias: float = 3.0,
    recurrent: Literal["orthogonal"] | None = None,
    input_scale: float | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Set the biases of a GRU or an LSTM in place, so that it is open to its inputs, nearly a tanh network; returns it.

    **Arguments:**

    - `module`: an `nn.GRU`, an `nn.LSTM` or one of their cells, with biases.
    - `bias`: of an open gate; that of a closed one is its negative. 3 opens to 0.95. GRU: r opens, z closes. LSTM: i
      and o open, f closes.
    - `recurrent`: "orthogonal" also draws every recurrent block as an orthogonal matrix.
    - `input_scale`: also draws the input weights of the new content of the first layer as N(0,1) times this number.
    - `generator`: draws them; a generator with seed 0 by default, so that modules of one shape get equal weights.

    **Raises:** `ValueError` for any other module, and for one without biases.

        module = flt.open_gates(torch.nn.GRU(3, 64), recurrent="orthogonal", input_scale=0.1)
    """
    check_positive("bias", bias)
    gated = read_module(unwrapped(module))
    if gated is None or gated.kind.name not in GATES:
        raise ValueError(f"module must be a GRU or an LSTM of torch.nn, got {type(module).__name__}")
    if any(layer[2] is None for layer in gated.layers):
        raise ValueError("module must have biases to open its gates, got bias=False")
    if not all(isinstance(weight, nn.Parameter) for layer in gated.layers for weight in layer):
        raise ValueError(
            "module must have its weights as parameters, got parametrised ones: remove the parametrisation"
        )
    if recurrent not in (None, "orthogonal"):
        raise ValueError(f"recurrent must be 'orthogonal' or None, got recurrent={recurrent!r}")
    if input_scale is not None:
        check_positive("input_scale", input_scale)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    signs = {"gru": (1, -1, None), "lstm": (1, -1, None, 1)}[gated.kind.name]
    for index, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(gated.layers):
        for sign, drive, own in zip(signs, bias_ih.chunk(len(signs)), bias_hh.chunk(len(signs)), strict=True):
            if sign is not None:
                drive.fill_(sign * bias)
                own.zero_()
        if recurrent == "orthogonal":
            for block in weight_hh.chunk(len(signs)):
                drawn = torch.randn(block.shape, generator=generator, device=generator.device, dtype=block.dtype)
                q, r = torch.linalg.qr(drawn)
                block.copy_(q * r.diagonal().sign())
        if input_scale is not None and index == 0:
            block = weight_ih.chunk(len(signs))[CANDIDATE]
            drawn = torch.randn(block.shape, generator=generator, device=generator.device, dtype=block.dtype)
            block.copy_(input_scale * drawn)
    return module
