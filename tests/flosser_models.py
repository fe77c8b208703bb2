"""Models and helpers for the tests of `Flosser` in PyTorch."""

import pytest

from tests.pytorch_settings import DOUBLE, torch

nn = torch.nn
flt = pytest.importorskip("flossing.pytorch")
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

QUICK = {"preflossing": 2, "epochs": 1, "every": 2, "k": 3, "window": 8, "report": False}


class Model(nn.Module):
    """Tokens, an embedding, dropout, a recurrent layer, a readout."""

    def __init__(self, kind=nn.GRU, batch_first=True, **options):
        super().__init__()
        self.embed = nn.Embedding(5, 4, **DOUBLE)
        self.drop = nn.Dropout(0.2)
        self.rnn = kind(4, 6, batch_first=batch_first, **options, **DOUBLE)
        self.out = nn.Linear(6, 2, **DOUBLE)

    def forward(self, tokens, lengths=None):
        x = self.drop(self.embed(tokens))
        x = x if self.rnn.batch_first else x.transpose(0, 1)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=self.rnn.batch_first, enforce_sorted=False)
            end = self.rnn(x)[1]
            return self.out((end[0] if isinstance(end, tuple) else end)[-1])
        out = self.rnn(x)[0]
        return self.out(out if self.rnn.batch_first else out.transpose(0, 1))


class OwnCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(9, 6, **DOUBLE)

    def forward(self, input, state):
        return torch.tanh(self.mix(torch.cat([input, state], dim=1)))


class Loop(nn.Module):
    """A cell, called step by step."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell, nn.Linear(6, 1, **DOUBLE)

    def forward(self, x):
        h, outputs = torch.zeros(len(x), 6, **DOUBLE), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(self.out(h[0] if isinstance(h, tuple) else h))
        return torch.stack(outputs, 1)


def train(model, flosser, optimiser, steps, first=0, batch=None):
    draws = torch.Generator().manual_seed(first)
    done = []
    for _ in range(first, first + steps):
        tokens = torch.randint(0, 5, (4, 10), generator=draws)
        optimiser.zero_grad()
        model(tokens if batch is None else batch(draws)).square().mean().backward()
        optimiser.step()
        done.append(flosser.step())
        draws = torch.Generator().manual_seed(first + len(done))
    return done


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
