"""The same work in PyTorch, as a competent user would write it: autograd through `torch.linalg.qr`, Adam.

Work that does not depend on the state is moved out of the time loop, the Jacobian product is one matrix product, and
vanishing gradients are flushed to zero.
"""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.starts import FLOSSED, flossing_start, training_start

CLIP = 0.03


def step(h, q, drive, J):
    """One step of the network and of its tangents: h, Q, log |diag R|."""
    h = torch.tanh(torch.addmv(drive, J, h))
    q, r = torch.linalg.qr((1 - h * h)[:, None] * (J @ q))
    return h, q, torch.log(torch.abs(torch.diagonal(r)))


def flossing_loss(parameters, h, basis, inputs, transient: int, step: Callable = step) -> torch.Tensor:
    """Mean squared exponent over the steps after `transient`."""
    drive = inputs @ parameters["ws"].T / inputs.shape[1] + parameters["b"]
    growth, q = [], basis
    for t in range(len(inputs)):
        h, q, log_r = step(h, q, drive[t], parameters["J"])
        growth.append(log_r)
    return torch.stack(growth[transient:]).mean(0).square().mean()


def task_loss(parameters, inputs, targets, mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy over batch and scored steps, and the accuracy."""
    drive = inputs.transpose(0, 1) @ parameters["ws"].T / inputs.shape[2] + parameters["b"]
    x, xs = parameters["x0"], []
    transposed = parameters["J"].T
    for t in range(len(drive)):
        x = torch.addmm(drive[t], torch.tanh(x), transposed)
        xs.append(x)
    logits = (torch.stack(xs) @ parameters["wr"].T + parameters["offset"])[:, :, 0].T[:, mask]
    targets = targets[:, mask]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    return loss, ((logits >= 0) == (targets > 0.5)).to(logits.dtype).mean()


def as_parameters(numbers, names) -> dict[str, torch.Tensor]:
    """Trainable copies of the named arrays."""
    return {name: torch.from_numpy(numbers[name].copy()).requires_grad_() for name in names}


class Flosser:
    """Flosses J, ws and b on fresh bits; each call runs one epoch and returns loss and gradient norm."""

    def __init__(self, parameters, h: Callable, basis, *, transient: int, window: int, step: Callable = step):
        self.parameters, self.h, self.basis = parameters, h, basis
        self.transient, self.window, self.step = transient, window, step
        self.flossed = [parameters[name] for name in FLOSSED]
        self.optimiser = torch.optim.Adam(self.flossed, lr=1e-3)

    def __call__(self) -> tuple[float, float]:
        self.optimiser.zero_grad()
        bits = torch.randint(0, 2, (self.window, 1)).to(self.basis.dtype)
        loss = flossing_loss(self.parameters, self.h(), self.basis, bits, self.transient, self.step)
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in self.flossed]).norm().item()
        self.optimiser.step()
        return loss.item(), norm


class Trainer:
    """Trains all arrays on a temporal XOR; each call runs one epoch and returns loss, accuracy and gradient norms."""

    def __init__(self, parameters, *, steps: int, delay: int):
        self.parameters, self.steps, self.delay = parameters, steps, delay
        self.optimiser = torch.optim.Adam(parameters.values(), lr=1e-3)
        self.mask = torch.arange(1, steps + 1) >= 2 * delay

    def __call__(self) -> dict[str, float]:
        self.optimiser.zero_grad()
        x0, delay, steps = self.parameters["x0"], self.delay, self.steps
        bits = torch.randint(0, 2, (len(x0), steps + 2 * delay)).to(x0.dtype)
        targets = (bits[:, delay : delay + steps] + bits[:, :steps]) % 2
        loss, accuracy = task_loss(self.parameters, bits[:, 2 * delay :, None], targets, self.mask)
        loss.backward()
        norms = clip_each(self.parameters)
        self.optimiser.step()
        return {"loss": loss.item(), "accuracy": accuracy.item(), **norms}


def clip_each(parameters) -> dict[str, float]:
    """Clip the norm of each array's gradient separately; returns the norms before clipping."""
    norms = {}
    for name, parameter in parameters.items():
        norm = norms[f"gradient_norm/{name}"] = parameter.grad.norm().item()
        parameter.grad.mul_(min(1.0, CLIP / norm) if norm > 0 else 1.0)
    return norms


def set_threads(threads: int):
    """Set the thread count, and flush denormals: vanishing gradients become denormal, which would be slow."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def flossing(*, units: int, steps: int, k: int, transient: int, threads: int, compiled: bool = False):
    """`advance(epochs)` for a flossing phase."""
    set_threads(threads)
    numbers = flossing_start(units, k)
    h = torch.from_numpy(numbers["h"])
    flosser = Flosser(
        as_parameters(numbers, FLOSSED),
        lambda: h,
        torch.from_numpy(numbers["basis"]),
        transient=transient,
        window=steps,
        step=torch.compile(step) if compiled else step,
    )
    return lambda epochs: [flosser() for _ in range(epochs)]


def training(*, units: int, batch: int, steps: int, delay: int, threads: int):
    """`advance(epochs)` for training on a temporal XOR."""
    set_threads(threads)
    numbers = training_start(units, batch)
    trainer = Trainer(as_parameters(numbers, numbers), steps=steps, delay=delay)
    return lambda epochs: [trainer() for _ in range(epochs)]


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    """NumPy arrays as tensors of the same dtype."""
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
