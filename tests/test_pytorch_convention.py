"""The call convention in PyTorch, and many sequences of a step of one's own."""

import jax
import pytest

import flossing as fl
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

flt = pytest.importorskip("flossing.pytorch")
nn = torch.nn


class Cell(nn.Module):
    """torch's own order, `forward(input, hx)`."""

    def __init__(self):
        super().__init__()
        self.u, self.w = nn.Linear(4, 4, **DOUBLE), nn.Linear(4, 4, bias=False, **DOUBLE)

    def forward(self, x, h):
        return torch.tanh(self.u(x) + 1.5 * self.w(h))


class StateFirst(Cell):
    def forward(self, h, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x, h)


ZERO = torch.zeros(4, **DOUBLE)


def measure(model, inputs, **options):
    return flt.lyapunov_spectrum(model, inputs, state=ZERO, k=2, **options).exponents.detach()


def test_a_cell_is_called_with_the_input_first():
    cell, inputs = Cell(), torch.randn(30, 4, **DOUBLE)
    expected = measure(lambda h, s: cell(s, h), inputs)
    torch.testing.assert_close(measure(cell, inputs), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(measure(cell, inputs, step=lambda m, h, s: m(s, h)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [StateFirst, lambda: lambda input, hidden: Cell()(input, hidden)])
def test_names_that_contradict_the_order_are_refused(make):
    with pytest.raises(ValueError, match=r"can be read in two: .* pass step=lambda model, state, input: ") as error:
        measure(make(), torch.randn(30, 4, **DOUBLE))
    assert "\n" not in str(error.value)


def test_each_sequence_of_a_batch_is_measured_on_its_own():
    cell, inputs = Cell(), torch.randn(3, 30, 4, **DOUBLE)
    each = torch.stack([measure(cell, s) for s in inputs])
    torch.testing.assert_close(measure(cell, inputs, batched=True), each, rtol=0, atol=1e-12)
    states = torch.randn(3, 4, **DOUBLE)
    spectrum = flt.lyapunov_spectrum(cell, inputs, state=states, k=2, batched=True)
    alone = [flt.lyapunov_spectrum(cell, s, state=h, k=2) for s, h in zip(inputs, states, strict=True)]
    torch.testing.assert_close(spectrum.exponents, torch.stack([a.exponents for a in alone]), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.state, torch.stack([a.state for a in alone]), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.std(), torch.stack([a.exponents for a in alone]).std(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(spectrum.standard_error(), spectrum.std() / 3**0.5, rtol=1e-12, atol=0)


def test_flossing_continues_with_its_optimiser_and_its_interval():
    """Two phases are one: moments and interval go on."""
    inputs = torch.randn(40, 2, **DOUBLE)
    runs = []
    for phases in ((40,), (25, 15)):
        torch.manual_seed(3)
        module, state, history = nn.RNN(2, 8, **DOUBLE), None, None
        for epochs in phases:
            history = flt.floss(module, inputs, k=3, epochs=epochs, flossing_state=state, loss=flt.losses.exponents)
            state = history.state
        assert history is not None
        runs.append((history.exponents[-1], history.state.interval))
    assert runs[0][1] > 1
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=0, atol=1e-7)


def test_a_spectrum_at_a_long_interval_and_per_unit_of_time():
    torch.manual_seed(0)
    module, inputs = nn.RNN(2, 8, **DOUBLE), torch.randn(200, 2, **DOUBLE)
    every, adapted = (flt.lyapunov_spectrum(module, inputs, k=2, interval=interval) for interval in (1, "auto"))
    assert adapted.interval >= 2
    torch.testing.assert_close(adapted.exponents, every.exponents, rtol=0, atol=1e-9)
    timed = flt.lyapunov_spectrum(module, inputs, k=2, time_step=0.1)
    torch.testing.assert_close(timed.exponents, 10 * every.exponents, rtol=1e-12, atol=0)
    torch.testing.assert_close(timed.running_mean()[-1], timed.exponents, rtol=1e-9, atol=0)


def test_defaults_are_those_of_the_jax_side():
    """The transient of both, by one rule; and none where a basis continues a run."""
    module = nn.GRU(2, 5)
    inputs = torch.randn(50, 2)
    cell = fl.cells.GRU(5, 2, key=jax.random.key(0))
    ours, theirs = flt.lyapunov_spectrum(module, inputs), fl.lyapunov_spectrum(cell, inputs.double().numpy())
    assert len(ours.log_growth) == len(theirs.log_growth) == 35
    assert len(flt.lyapunov_spectrum(module, inputs, basis=ours.basis).transient_log_growth) == 0
