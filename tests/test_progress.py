"""The progress of long calls: a bar on a terminal, rare lines elsewhere, nothing for short calls or if switched off."""

import contextlib
import io

import jax
import pytest

import flossing as fl
from flossing import _progress
from flossing._progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    return now


def run(stream, clock, *, epochs=100, each=0.5, compiling=30.0, shown=True):
    with Progress("floss", epochs, shown=shown, stream=stream) as progress:
        for epoch in range(10, epochs + 1, 10):
            clock[0] += 10 * each + (compiling if epoch == 10 else 0)
            progress.update(epoch, "loss 1")
    return stream.getvalue()


def test_lines_where_there_is_no_terminal(clock):
    lines = run(io.StringIO(), clock).splitlines()
    assert lines[0] == "floss: began in 35 s, then 500 ms per epoch, 50 s for 100"  # without the time of compilation
    assert lines[1] == "floss: 20 of 100 epochs, 40 s left, loss 1"
    assert lines[2] == "floss: 40 of 100 epochs, 30 s left, loss 1"  # at most one every ten seconds
    assert lines[-1] == "floss: 100 of 100 epochs, 0 ms left, loss 1"
    assert len(lines) == 6


def test_a_bar_on_a_terminal(clock):
    text = run(Terminal(), clock)
    assert text.startswith(
        "floss: began in 35 s, then 500 ms per epoch, 50 s for 100\n\r\x1b[K####...................."
    )
    assert text.endswith("######################## floss: 100 of 100 epochs, 0 ms left, loss 1\n")


def test_short_calls_and_silence(clock):
    assert run(io.StringIO(), clock, each=0.05) == ""
    assert run(Terminal(), clock, each=0.0001) == ""
    assert run(Terminal(), clock, shown=False) == ""


def test_an_error_ends_the_line(clock):
    stream = Terminal()
    with contextlib.suppress(FloatingPointError), Progress("floss", 100, stream=stream) as progress:
        for epoch in (10, 20):
            clock[0] += 10
            progress.update(epoch)
        raise FloatingPointError
    assert "20 of 100" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


@pytest.mark.parametrize("report", [True, False])
def test_floss_shows_it(monkeypatch, capfd, report, optax_promotion):
    monkeypatch.setattr(_progress, "LEAST", 0.0)
    monkeypatch.setitem(_progress.EVERY, False, 0.0)
    cell = fl.cells.VanillaRNN(4, 1, key=jax.random.key(0))
    fl.floss(cell, jax.random.normal(jax.random.key(1), (20, 1)), k=2, epochs=30, chunk=30, report=report)
    shown = capfd.readouterr()
    assert ("floss changes J (4, 4)" in shown.out) == report
    assert ("floss: 30 of 30 epochs, 0 ms left, loss 0." in shown.err) == report
    torch, flt = pytest.importorskip("torch"), pytest.importorskip("flossing.pytorch")
    flt.floss(torch.nn.RNN(1, 4), torch.randn(20, 1), k=2, epochs=5, report=report)
    shown = capfd.readouterr()
    assert ("floss changes weight_ih_l0 (4, 1)" in shown.out) == report
    assert ("floss: 5 of 5 epochs" in shown.err) == report
