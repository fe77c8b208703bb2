"""How much of the gradient reaches back over the window.

    reach = |dL/dh_0| / |dL/dtheta|,        L the losses of the second half of the window

h_0 is the state at the start of the window, theta are the parameters of the recurrent module. Both norms are those of
single sequences: the gradients of B sequences with respect to their states add up like a random walk, those with
respect to the weights agree once the network learns, so the ratio of a batch is multiplied by sqrt(B).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing.pytorch._recorder import Record


def layer_reach(module: Any, record: Record, window: int, parameters: list[Tensor]) -> float:
    """The reach of the loss's own gradient, in a layer: its last `window` steps of each sequence run once more.

    NaN if every sequence has its last loss before `window` steps.
    """
    assert record.gradients is not None
    outputs, ends = record.gradients
    lengths, counted = _ends_of_losses(record), 0
    total, distant = [torch.zeros_like(p) for p in parameters], 0.0
    for length in lengths[lengths >= window].unique().tolist():
        rows = (lengths == length).nonzero()[:, 0].tolist()
        counted += len(rows)
        start, inputs = length - window, record.inputs[rows]
        state = record.starts(rows)
        if start:
            with torch.no_grad():
                state = _call(module, inputs[:, :start], state)[1]
        state = pytree.tree_map(lambda h: h.detach().requires_grad_(), state)
        out, end = _call(module, inputs[:, start:length], state)
        late = slice(window // 2, None)
        losses = [] if outputs is None else [(out * outputs[rows, start:length])[:, late].sum()]
        losses += [(leaf * ends[i][:, rows]).sum() for i, leaf in enumerate(pytree.tree_leaves(end)) if i in ends]
        leaves = pytree.tree_leaves(state)
        found = _gradients(torch.stack(losses).sum(), [*leaves, *parameters])
        distant += sum(float(g.double().square().sum()) for g in found[: len(leaves)])
        total = [a + b for a, b in zip(total, found[len(leaves) :], strict=True)]
    if not counted and int(lengths.max()):
        return math.nan
    local = sum(float(g.double().square().sum()) for g in total)
    return _ratio(distant * counted, local)


def cell_reach(module: nn.Module, record: Record, window: int, parameters: list[Tensor], draws: torch.Generator):
    """The reach of a random gradient, in a cell: N(0, 1) at each coordinate of the states of the second half."""
    state = pytree.tree_map(lambda h: h.detach().requires_grad_(h.is_floating_point()), record.state)
    leaves, at = [leaf for leaf in pytree.tree_leaves(state) if leaf.requires_grad], state
    losses = []
    for t in range(window):
        at = module(pytree.tree_map(lambda s: s[:, t], record.inputs), at)  # noqa: B023 (called at once)
        if t >= window // 2:
            losses += [(h * _noise(h, draws)).sum() for h in pytree.tree_leaves(at) if h.requires_grad]
    found = _gradients(torch.stack(losses).sum(), [*leaves, *parameters])
    squares = [float(g.double().square().sum()) for g in found]
    return _ratio(sum(squares[: len(leaves)]), sum(squares[len(leaves) :]))


def _ends_of_losses(record: Record) -> Tensor:
    """The last step of each sequence at which there is a loss, counted from 1; 0 for none."""
    assert record.gradients is not None
    outputs, ends = record.gradients
    whole = torch.full((record.batch,), record.longest) if record.lengths is None else record.lengths
    last = torch.zeros_like(whole)
    if outputs is not None:
        is_scored = (outputs != 0).any(-1).cpu()
        last = (is_scored * torch.arange(1, is_scored.shape[1] + 1)).amax(1)
    at_end = torch.zeros(record.batch, dtype=torch.bool)
    for gradient in ends.values():
        at_end |= (gradient != 0).any(-1).any(0).cpu()
    return torch.where(at_end, whole, last)


def _call(module: Any, inputs: Tensor, state: Any) -> Any:
    # cuDNN has no backward pass in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        out, end = module(inputs if module.batch_first else inputs.transpose(0, 1), state)
    return (out if module.batch_first else out.transpose(0, 1)), end


def _gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def _noise(h: Tensor, draws: torch.Generator) -> Tensor:
    return torch.randn(h.shape, generator=draws, dtype=h.dtype, device=draws.device).to(h.device)


def _ratio(distant: float, local: float) -> float:
    if distant == local == 0:
        return 0.0  # no gradient at all
    return math.sqrt(distant / local) if local > 0 else math.nan
