"""Delayed copy in PyTorch: the same network trained without and with flossing first. About 20 s on two cores."""

import copy
import functools

import torch
from torch import nn

import flossing.pytorch as flt

DELAY, STEPS, BATCH, UNITS, EPOCHS = 40, 100, 32, 64, 800


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, UNITS)
        self.readout = nn.Linear(UNITS, 1)

    def forward(self, bits):
        return self.readout(self.rnn(bits)[0])


def draw_bits(steps=STEPS, batch=BATCH):
    return torch.randint(0, 2, (steps, batch, 1)).float()


def train(network):
    """Output the bit from 40 steps ago at every step; returns the accuracy on each fresh batch before its update."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    accuracy = []
    for _ in range(EPOCHS):
        bits = draw_bits()
        logits, targets = network(bits)[DELAY:], bits[:-DELAY]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimiser.step()
        accuracy.append(((logits > 0) == (targets > 0.5)).float().mean().item())
    return torch.tensor(accuracy)


torch.manual_seed(1)
torch.set_num_threads(1)  # at this size, two threads wait for each other
plain = Network()
flossed = copy.deepcopy(plain)

# Flossing:
adam = functools.partial(torch.optim.Adam, lr=2e-3)
history = flt.floss(flossed.rnn, lambda: draw_bits(60, 1)[:, 0], k=48, epochs=200, optimiser=adam)

accuracies = {"as it comes": train(plain), "flossed first": train(flossed)}
for name, accuracy in accuracies.items():
    print(f"{name}: accuracy {accuracy[-100:].mean():.3f} over the last 100 of {EPOCHS} epochs; chance is 0.5")
