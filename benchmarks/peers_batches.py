"""Flossing of torch modules on many sequences at once, in eager PyTorch: batched products and QR, a loop over time.

The same steps as in `peers_modules`, with a leading axis of B sequences.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.peers_modules import drawn_basis, drawn_module
from benchmarks.peers_torch import set_threads


def rnn_step(weight, bias, drive, h, q):
    """The states (B, N) after a step of `nn.RNN`, and D Q of each (B, N, k)."""
    h = torch.tanh(drive + torch.addmm(bias, h, weight.T))
    return h, (1 - h * h)[..., None] * (weight @ q)


def lstm_step(weight, bias, drive, x, q):
    """The same for `nn.LSTM`; x is h and c side by side."""
    (h, c), (q_h, q_c) = x.chunk(2, -1), q.chunk(2, -2)
    i, f, g, o = (drive + torch.addmm(bias, h, weight.T)).chunk(4, -1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c, before = f * c + i * g, c
    tanh = torch.tanh(c)
    gates = torch.cat([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), tanh * o * (1 - o)], -1)
    along = (gates[..., None] * (weight @ q_h)).unflatten(-2, (4, -1))
    along_c = torch.addcmul(along[:, :3].sum(1), f[..., None], q_c)
    along_h = torch.addcmul(along[:, 3], (o * (1 - tanh * tanh))[..., None], along_c)
    return torch.cat([o * tanh, c], -1), torch.cat([along_h, along_c], -2)


STEPS = {"nn.RNN": rnn_step, "nn.LSTM": lstm_step}


def batch_loss(cell: str, module: nn.Module, inputs: Tensor, basis: Tensor, transient: int) -> Tensor:
    """Mean squared exponent over the steps after `transient`, along each sequence of `inputs` (T, B, S)."""
    drive = nn.functional.linear(inputs, module.weight_ih_l0, module.bias_ih_l0)
    step, weight, bias = STEPS[cell], module.weight_hh_l0, module.bias_hh_l0
    steps, batch = inputs.shape[:2]
    x, q, growth = basis.new_zeros(batch, len(basis)), basis.expand(batch, *basis.shape), []
    for t in range(steps):
        x, q = step(weight, bias, drive[t], x, q)
        q, r = torch.linalg.qr(q)
        growth.append(torch.log(torch.abs(torch.diagonal(r, dim1=-2, dim2=-1))))
    return torch.stack(growth[transient:]).mean(0).square().mean()


def flossing(*, cell: str, units: int, k: int, steps: int, batch: int, transient: int, threads: int) -> Callable:
    """`advance(epochs)` for a flossing phase on batches."""
    set_threads(threads)
    module, basis = drawn_module(cell, units), drawn_basis(cell, units, k)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)

    def epoch():
        optimiser.zero_grad()
        value = batch_loss(cell, module, random_bits(steps, batch), basis, transient)
        value.backward()
        norm = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm().item()
        optimiser.step()
        return value.item(), norm

    return lambda epochs: [epoch() for _ in range(epochs)]


def random_bits(steps: int, batch: int) -> Tensor:
    """The inputs of an epoch."""
    return torch.randint(0, 2, (steps, batch, 1)).float()
