"""Torch steps and modules that are refused, or made to work, before any epoch; and what surrounds a call."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import flossing.pytorch as flt

INPUTS = torch.linspace(-1, 1, 180).reshape(60, 3)


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def test_a_step_in_place_is_refused_and_the_state_kept():
    start = torch.ones(3)
    with pytest.raises(ValueError, match="step must not change its arguments in place"):
        flt.lyapunov_spectrum(lambda h, s: h.mul_(0.5), INPUTS, state=start)
    assert torch.equal(start, torch.ones(3))


class Alternating(nn.Module):
    """Its factor depends on how often it was called."""

    calls = 0

    def forward(self, _, h):
        factor, self.calls = (0.5, 0.9)[self.calls % 2], self.calls + 1
        return factor * h


@pytest.mark.parametrize("model", [Alternating(), lambda h, s: h * torch.rand(3)])
def test_a_step_that_does_not_repeat_itself_is_refused(model):
    with pytest.raises(ValueError, match="step must be a pure function of its arguments"):
        flt.lyapunov_spectrum(model, None, state=torch.ones(3), steps=10)


def test_parameters_that_do_not_enter_the_step_are_refused(capsys):
    gru, weight, readout = nn.GRU(3, 8), nn.Parameter(torch.randn(8, 8) / 3), nn.Linear(8, 2)
    message = "parameters must enter the step, got none that the exponents depend on"
    with pytest.raises(ValueError, match=message):
        flt.floss(gru, INPUTS, k=3, epochs=2, parameters=copy.deepcopy(gru).parameters())
    step = lambda h, s: torch.tanh(weight @ h + s.sum())  # noqa: E731
    options = {"state": torch.zeros(8), "k": 3, "epochs": 2}
    with pytest.raises(ValueError, match=message):
        flt.floss(step, INPUTS, parameters=readout.parameters(), **options)
    flt.floss(step, INPUTS, parameters=[weight, *readout.parameters()], **options)
    said = capsys.readouterr().out
    assert said == "floss changes parameters[0] (8, 8); without effect on the step: parameters[1], parameters[2]\n"


def test_project_keeps_a_mask():
    rnn, mask = nn.RNN(3, 8), torch.rand(8, 8) < 0.5

    def project(module):
        module.weight_hh_l0.mul_(mask)

    before = rnn.weight_hh_l0.detach() * mask
    flt.floss(rnn, INPUTS, k=3, epochs=5, project=project, report=False)
    assert (rnn.weight_hh_l0[~mask] == 0).all()
    assert not torch.equal(rnn.weight_hh_l0, before)


def test_a_batch_as_one_state_is_refused():
    weight = torch.randn(5, 5) / 3
    step = lambda h, s: torch.tanh(h @ weight.T + s.sum(-1, keepdim=True))  # noqa: E731
    inputs = torch.randn(20, 4, 3)
    with pytest.raises(ValueError, match=r"batched must be given for a state of shape \(4, 5\) whose 4 rows do not"):
        flt.lyapunov_spectrum(step, inputs, state=torch.zeros(4, 5))
    one = flt.lyapunov_spectrum(step, inputs, state=torch.zeros(4, 5), batched=False)
    each = flt.lyapunov_spectrum(step, inputs.movedim(1, 0), state=torch.zeros(5), batched=True)
    torch.testing.assert_close(one.exponents.sum(), each.exponents.sum(), rtol=1e-4, atol=1e-4)


def test_a_batch_is_continued():
    lstm, inputs = nn.LSTM(2, 7).double(), torch.randn(40, 3, 2).double()
    whole = flt.lyapunov_spectrum(lstm, inputs, k=4, transient=0)
    first = flt.lyapunov_spectrum(lstm, inputs[:20], k=4, transient=0)
    second = flt.lyapunov_spectrum(lstm, inputs[20:], state=first.state, basis=first.basis)
    halves = (first.exponents + second.exponents) / 2
    torch.testing.assert_close(halves, whole.exponents, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_autocast_changes_nothing(engine):
    rnn = nn.RNN(3, 16)

    def measured(autocast):
        net = copy.deepcopy(rnn)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            exponents = flt.lyapunov_spectrum(net, INPUTS, k=8, engine=engine).exponents
            history = flt.floss(copy.deepcopy(rnn), INPUTS, k=8, epochs=2, engine=engine, report=False)
        exponents.square().mean().backward()
        return exponents.detach(), history.exponents, *(p.grad for p in net.parameters())

    for mine, plain in zip(measured(True), measured(False), strict=True):
        assert torch.equal(mine, plain)


def test_backward_inside_autocast_is_refused():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exponents = flt.lyapunov_spectrum(nn.RNN(3, 16), INPUTS, k=8, engine="torch").exponents
        with pytest.raises(ValueError, match="backward must be called outside of torch.autocast"):
            exponents.sum().backward()


def test_precision_of_products_is_restored():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        flt.lyapunov_spectrum(nn.RNN(3, 8), INPUTS, k=2, engine="torch")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_attention_and_cells_inside_a_step_work_without_a_warning():
    qkv, out, cell = nn.Linear(8, 24).double(), nn.Linear(8, 8).double(), nn.GRUCell(3, 8).double()

    def attend(x, s):
        q, k, v = (t.view(4, 2, 4).transpose(0, 1)[None] for t in qkv(x).chunk(3, -1))
        return 0.5 * x + out(scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).reshape(4, 8)) + s

    inputs = 0.1 * torch.randn(20, 4, 8).double()
    options = {"state": torch.randn(4, 8).double(), "k": 4, "epochs": 1, "report": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = flt.floss(attend, inputs, parameters=[*qkv.parameters(), *out.parameters()], **options)
        wrapped = lambda h, s: cell(s, h)  # noqa: E731
        given, start = INPUTS.double(), torch.zeros(8).double()
        found = flt.lyapunov_spectrum(wrapped, given, state=start, k=3).exponents
    assert history.loss.isfinite().all()
    torch.testing.assert_close(found, flt.lyapunov_spectrum(cell, given, k=3).exponents, rtol=0, atol=1e-12)


def test_a_checkpoint_inside_a_step():
    weight = torch.randn(8, 8) / 2

    def flossed(wrap):
        parameter = nn.Parameter(weight.clone())
        plain = lambda h, s: torch.tanh(parameter @ h + s.sum())  # noqa: E731
        step = (lambda h, s: checkpoint(plain, h, s, use_reentrant=False)) if wrap else plain
        return flt.floss(step, INPUTS, state=torch.zeros(8), parameters=[parameter], k=3, epochs=2, report=False)

    torch.testing.assert_close(flossed(True).loss, flossed(False).loss, rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


@pytest.mark.parametrize("state", [None, torch.zeros(1, 8)])
def test_a_whole_model_is_pointed_to_its_layer(state):
    with pytest.raises(ValueError, match="model must be the recurrent layer alone, got Net: pass model.rnn"):
        flt.floss(Net(), INPUTS, state=state, k=3, epochs=1)


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_wrapped_modules_are_unwrapped(wrap):
    gru = nn.GRU(3, 8)
    alone = flt.lyapunov_spectrum(gru, INPUTS, k=3).exponents
    assert torch.equal(flt.lyapunov_spectrum(wrap(gru), INPUTS, k=3).exponents, alone)
    before = gru.weight_hh_l0.detach().clone()
    flt.floss(wrap(gru), INPUTS, k=3, epochs=1, report=False)
    assert not torch.equal(gru.weight_hh_l0, before)


def test_an_optimiser_that_wants_a_closure():
    options = {"k": 3, "epochs": 3, "optimiser": torch.optim.LBFGS, "clip": None, "report": False}
    history = flt.floss(nn.GRU(3, 8), INPUTS, loss=flt.losses.exponents, **options)
    assert history.loss[-1] < 1e-6 < history.loss[0]
