"""What hooks record for `Flosser`, and the reach of the gradient that it decides by."""

import copy
import gc
import math
import weakref

import pytest
from torch.nn.utils.rnn import pack_padded_sequence

from tests.flosser_models import QUICK, OwnCell, flt, nn
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_reach_is_the_gradient_of_the_loss(kind, batch_first):
    """|dL/dh_0| / |dL/dtheta|, by plain autograd through the model, for losses of the second half of the window."""
    module = kind(3, 5, num_layers=2, batch_first=batch_first, **DOUBLE)
    window, batch, steps = 6, 4, 10
    flosser = flt.Flosser(module, **QUICK | {"window": window, "preflossing": 0, "every": 1, "epochs": 0})
    inputs, readout = torch.randn(batch, steps, 3, **DOUBLE), torch.randn(batch, steps, 5, **DOUBLE)

    def run(x, state=None):
        out, end = module(x if batch_first else x.transpose(0, 1), *([] if state is None else [state]))
        return (out if batch_first else out.transpose(0, 1)), end

    for _ in range(2):  # the first query follows step 2
        module.zero_grad()
        (run(inputs)[0] * readout).sum().backward()
        flosser.step()
    with torch.no_grad():
        state = run(inputs[:, : steps - window])[1]
    state = [h.requires_grad_() for h in (state if isinstance(state, tuple) else (state,))]
    out = run(inputs[:, steps - window :], tuple(state) if len(state) > 1 else state[0])[0]
    loss = (out * readout[:, steps - window :])[:, window // 2 :].sum()
    found = torch.autograd.grad(loss, [*state, *module.parameters()])
    squares = [float(g.square().sum()) for g in found]
    expected = math.sqrt(batch * sum(squares[: len(state)]) / sum(squares[len(state) :]))
    assert flosser.scalars()["flossing/reach"] == pytest.approx(expected, rel=1e-12)


def test_reach_of_packed_sequences_counts_from_the_end_of_each():
    """A packed batch has the reach of its sequences, each cut to the window; the gradient arrives at the last state."""
    torch.manual_seed(1)
    layer, lengths, inputs = nn.GRU(3, 5, batch_first=True, **DOUBLE), [9, 6, 9], torch.randn(3, 9, 3, **DOUBLE)
    flosser = flt.Flosser(layer, **QUICK | {"window": 6, "preflossing": 0, "every": 1, "epochs": 0})
    readout = torch.randn(3, 5, **DOUBLE)
    for _ in range(2):
        packed = pack_padded_sequence(inputs, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        (layer(packed)[1][-1] * readout).sum().backward()
        flosser.step()
    distant, local = 0.0, [torch.zeros_like(p) for p in layer.parameters()]
    for length, sequence, read in zip(lengths, inputs, readout, strict=True):
        with torch.no_grad():
            state = layer(sequence[None, : length - 6])[1] if length > 6 else torch.zeros(1, 1, 5, **DOUBLE)
        state.requires_grad_()
        loss = (layer(sequence[None, length - 6 : length], state)[1][-1, 0] * read).sum()
        first, *others = torch.autograd.grad(loss, [state, *layer.parameters()])
        distant += float(first.square().sum())
        local = [a + g for a, g in zip(local, others, strict=True)]
    expected = math.sqrt(3 * distant / sum(float(g.square().sum()) for g in local))
    assert flosser.scalars()["flossing/reach"] == pytest.approx(expected, rel=1e-12)


def test_nothing_is_kept_between_steps():
    """Hooks hold no cycle through what the module returned, which Python could not free."""
    for module in (nn.GRU(3, 5, batch_first=True, **DOUBLE), nn.GRUCell(3, 5, **DOUBLE)):
        flosser = flt.Flosser(module, **QUICK | {"preflossing": 0, "every": 1, "epochs": 0})
        x, h = torch.randn(2, 10, 3, **DOUBLE), None
        out = module(x)[0] if isinstance(module, nn.GRU) else None
        for t in range(10 if out is None else 0):
            h = module(x[:, t], h)
        kept = weakref.ref(out if out is not None else h)
        (out if out is not None else h).sum().backward()
        del out, h
        flosser.step()
        gc.collect()
        assert kept() is None


def test_full_backward_hooks_of_others():
    layer = nn.GRU(3, 5, batch_first=True, **DOUBLE)
    layer.register_full_backward_hook(lambda *_: None)
    flosser = flt.Flosser(layer, **QUICK)
    layer(torch.randn(2, 10, 3, **DOUBLE, requires_grad=True))[0].sum().backward()
    assert flosser.step() == 2


def test_a_cell_without_a_model_around_it():
    """A pass for validation, with a gradient but none taken, is not joined to the training pass; also with keywords."""
    cell = OwnCell()
    flosser = flt.Flosser(cell, **QUICK | {"recurrent": cell})
    validation, x = torch.randn(2, 4, 10, 3, **DOUBLE)

    def run(inputs):
        h = torch.zeros(4, 6, **DOUBLE)
        for t in range(10):
            h = cell(state=h, input=inputs[:, t])
        return h

    run(validation)
    run(x).sum().backward()
    assert torch.equal(flosser._recorded().inputs, x)
    assert flosser.step() == 2


def test_keywords_in_another_order():
    layer, x = nn.GRU(3, 5, batch_first=True, **DOUBLE), torch.randn(2, 10, 3, **DOUBLE)
    flosser = flt.Flosser(layer, **QUICK)
    layer(hx=torch.zeros(1, 2, 5, **DOUBLE), input=x)[0].sum().backward()
    assert torch.equal(flosser._recorded().inputs, x)


@pytest.mark.parametrize("make", [lambda: nn.GRU(3, 6, batch_first=True), lambda: nn.GRUCell(3, 6)])
def test_autocast(make):
    module, before = make(), nn.Linear(3, 3)
    flosser = flt.Flosser(module, **QUICK)
    x = torch.randn(2, 10, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inputs, h = before(x), torch.zeros(2, 6)
        if isinstance(module, nn.GRU):
            h = module(inputs)[0]
        else:
            for t in range(10):
                h = module(inputs[:, t], h)
    h.float().sum().backward()
    assert flosser.step() == 2


def test_the_window_ends_at_the_last_loss():
    """A padded batch whose loss is masked has the reach of the same sequences without padding."""
    torch.manual_seed(1)
    layer, x, read = nn.GRU(3, 5, batch_first=True, **DOUBLE), torch.randn(3, 12, 3, **DOUBLE), torch.randn(3, 12, 5)
    found = []
    for steps in (12, 9):
        flosser = flt.Flosser(copy.deepcopy(layer), **QUICK | {"epochs": 0, "every": 1, "preflossing": 0})
        for _ in range(2):
            out = flosser.module(x[:, :steps])[0]
            (out[:, :9] * read[:, :9].double()).sum().backward()
            flosser.step()
        found.append(flosser.scalars()["flossing/reach"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_no_gradient_at_all_is_no_reach():
    model = nn.RNN(3, 5, batch_first=True, nonlinearity="relu", **DOUBLE)
    with torch.no_grad():
        model.bias_ih_l0.fill_(-1e3)
    flosser = flt.Flosser(model, schedule=lambda step, measures: 0, **QUICK)
    for _ in range(3):
        model(torch.randn(2, 10, 3, **DOUBLE))[0].sum().backward()
        flosser.step()
    assert flosser.scalars()["flossing/reach"] == 0
