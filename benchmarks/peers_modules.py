"""Flossing of torch modules and of a custom step in eager PyTorch: a loop over time, `torch.linalg.qr`, Adam.

The tangents of each module are derived by hand, and the input term of all steps is one product outside the loop. The
custom step gets its Jacobian from `torch.func.jacrev` at each step, as any function would, or `derived` by hand.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jacrev

from benchmarks.peers_torch import set_threads

CELLS = {"nn.RNN": nn.RNN, "nn.GRU": nn.GRU, "nn.LSTM": nn.LSTM}


def drawn_module(cell: str, units: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One layer with one input channel, with torch's initial weights."""
    torch.manual_seed(1)
    return CELLS[cell](1, units, dtype=dtype)


def drawn_basis(cell: str | None, units: int, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Orthonormal tangents (N, k); N counts the coordinates of h, or of h and c."""
    size = 2 * units if cell == "nn.LSTM" else units
    drawn = torch.randn(size, k, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return torch.linalg.qr(drawn)[0]


def tanh_network(units: int, dtype: torch.dtype = torch.float32) -> tuple[Callable, list[Tensor]]:
    """A custom step, written as a plain function, and its parameters: J, w, b."""
    module = drawn_module("nn.RNN", units, dtype)
    J, w, b = module.weight_hh_l0, module.weight_ih_l0, module.bias_hh_l0
    return lambda h, s: torch.tanh(J @ h + w @ s + b), [J, w, b]


def rnn_step(weight, bias, drive, h, q):
    """The state after a step of `nn.RNN`, and D Q."""
    h = torch.tanh(drive + torch.addmv(bias, weight, h))
    return h, (1 - h * h)[:, None] * (weight @ q)


def gru_step(weight, bias, drive, h, q):
    """The same for `nn.GRU`."""
    (s_r, s_z, s_n), (u_r, u_z, u_n) = drive.chunk(3), torch.addmv(bias, weight, h).chunk(3)
    r, z = torch.sigmoid(s_r + u_r), torch.sigmoid(s_z + u_z)
    n = torch.tanh(s_n + r * u_n)
    slope = (1 - z) * (1 - n * n)
    gates = torch.cat([slope * u_n * r * (1 - r), (h - n) * z * (1 - z), slope * r])
    along = (gates[:, None] * (weight @ q)).view(3, len(h), -1)
    return n + z * (h - n), torch.addcmul(along.sum(0), z[:, None], q)


def lstm_step(weight, bias, drive, x, q):
    """The same for `nn.LSTM`; x is h and c in one vector."""
    (h, c), (q_h, q_c) = x.chunk(2), q.chunk(2)
    i, f, g, o = (drive + torch.addmv(bias, weight, h)).chunk(4)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c, before = f * c + i * g, c
    tanh = torch.tanh(c)
    gates = torch.cat([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), tanh * o * (1 - o)])
    along = (gates[:, None] * (weight @ q_h)).view(4, len(h), -1)
    along_c = torch.addcmul(along[:3].sum(0), f[:, None], q_c)
    along_h = torch.addcmul(along[3], (o * (1 - tanh * tanh))[:, None], along_c)
    return torch.cat([o * tanh, c]), torch.cat([along_h, along_c])


STEPS = {"nn.RNN": rnn_step, "nn.GRU": gru_step, "nn.LSTM": lstm_step}


def module_loss(cell: str, module: nn.Module, inputs: Tensor, basis: Tensor, transient: int) -> Tensor:
    """Mean squared exponent over the steps after `transient`, from the zero state."""
    drive = nn.functional.linear(inputs, module.weight_ih_l0, module.bias_ih_l0)
    step, weight, bias = STEPS[cell], module.weight_hh_l0, module.bias_hh_l0
    return flossing_loss(lambda t, x, q: step(weight, bias, drive[t], x, q), len(inputs), basis, transient)


def function_loss(step: Callable, inputs: Tensor, basis: Tensor, transient: int) -> Tensor:
    """The same for any step, with its Jacobian from `torch.func.jacrev`."""
    jacobian = jacrev(lambda h, s: (step(h, s),) * 2, has_aux=True)

    def advance(t, h, q):
        D, h = jacobian(h, inputs[t])
        return h, D @ q

    return flossing_loss(advance, len(inputs), basis, transient)


def derived_loss(parameters: list[Tensor], inputs: Tensor, basis: Tensor, transient: int) -> Tensor:
    """The same for the tanh network, with tangents derived by hand."""
    J, w, b = parameters
    drive = inputs @ w.T + b

    def advance(t, h, q):
        h = torch.tanh(torch.addmv(drive[t], J, h))
        return h, (1 - h * h)[:, None] * (J @ q)

    return flossing_loss(advance, len(inputs), basis, transient)


def flossing_loss(advance: Callable, steps: int, basis: Tensor, transient: int) -> Tensor:
    """Mean squared exponent; `advance(t, x, q)` gives the state after step t, and D Q."""
    x, q, growth = basis.new_zeros(len(basis)), basis, []
    for t in range(steps):
        x, q = advance(t, x, q)
        q, r = torch.linalg.qr(q)
        growth.append(torch.log(torch.abs(torch.diagonal(r))))
    return torch.stack(growth[transient:]).mean(0).square().mean()


def module(*, cell: str, units: int, steps: int, k: int, transient: int, threads: int):
    """`advance(epochs)` for a flossing phase of a module."""
    set_threads(threads)
    flossed, basis = drawn_module(cell, units), drawn_basis(cell, units, k)
    return _advance(lambda bits: module_loss(cell, flossed, bits, basis, transient), flossed.parameters(), steps)


def function(*, units: int, steps: int, k: int, transient: int, threads: int, derived: bool):
    """The same for a custom step."""
    set_threads(threads)
    step, parameters = tanh_network(units)
    basis = drawn_basis(None, units, k)
    if derived:
        return _advance(lambda bits: derived_loss(parameters, bits, basis, transient), parameters, steps)
    return _advance(lambda bits: function_loss(step, bits, basis, transient), parameters, steps)


def random_bits(steps: int) -> Tensor:
    """The inputs of an epoch."""
    return torch.randint(0, 2, (steps, 1)).float()


def _advance(loss: Callable, parameters, steps: int):
    parameters = list(parameters)
    optimiser = torch.optim.Adam(parameters, lr=1e-3)

    def epoch():
        optimiser.zero_grad()
        value = loss(random_bits(steps))
        value.backward()
        norm = torch.stack([p.grad.norm() for p in parameters]).norm().item()
        optimiser.step()
        return value.item(), norm

    return lambda epochs: [epoch() for _ in range(epochs)]
