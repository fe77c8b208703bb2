"""`diagnose` is right about networks that do and do not learn: as drawn, flossed by each loss, with a good start."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flossing as fl
from flossing._diagnosis import settings_for
from flossing.pytorch._diagnose import _gradient
from flossing_lab.cli import main

pytestmark = pytest.mark.usefixtures("optax_promotion")
HORIZON = 20


def bits(key, steps=120, dtype=float):
    return jax.random.bernoulli(jax.random.key(key), 0.5, (steps, 1)).astype(dtype)


def flossed(cell, loss=None, epochs=250, k=26, window=2 * HORIZON):
    options = {"k": k, "window": window, "epochs": epochs, "loss": loss, "report": False}
    return fl.floss(cell, lambda key: jax.random.bernoulli(key, 0.5, (window, 1)).astype(float), **options)[0]


def tanh(**options):
    return fl.cells.VanillaRNN(32, key=jax.random.key(1), **options)


def gru():
    return fl.cells.GRU(32, key=jax.random.key(1))


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (tanh, "vanishes"),
        pytest.param(gru, "vanishes", marks=pytest.mark.slow),
        (lambda: flossed(tanh()), "ready"),
        pytest.param(lambda: flossed(gru()), "ready", marks=pytest.mark.slow),
        (lambda: flossed(gru(), fl.losses.exponents, k=32), "unwritten"),
        (lambda: tanh(recurrent="orthogonal", input_scale=0.1), "ready"),
        (lambda: tanh(gain=8.0, input_scale=0.1, bias_scale=0.0), "explodes"),
    ],
    ids=["tanh", "GRU", "tanh flossed", "GRU flossed", "GRU exponents", "tanh isometric", "chaotic"],
)
def test_verdicts(make, verdict):
    found = fl.diagnose(make(), bits(2), horizon=HORIZON, cost=False)
    assert found.verdict == verdict
    assert ("train" in found.advice()[0]) == (verdict == "ready")


def test_torch_agrees():
    """The same weights give the same diagnosis; random draws differ."""
    torch, flt = pytest.importorskip("torch"), pytest.importorskip("flossing.pytorch")
    module = torch.nn.GRU(1, 16).double()
    ours = fl.diagnose(fl.cells.from_weights(module.state_dict()), bits(2), horizon=HORIZON, cost=False)
    theirs = flt.diagnose(module, torch.tensor(np.asarray(bits(2))), horizon=HORIZON)
    np.testing.assert_allclose(theirs.exponents, ours.exponents, atol=0.05)
    np.testing.assert_allclose(theirs.memory, ours.memory, atol=0.1)
    assert (theirs.verdict, theirs.k, theirs.window) == (ours.verdict, ours.k, ours.window)
    assert theirs.seconds > 0 and 0.3 < theirs.write < 0.7
    step = lambda h, s: torch.tanh(0.5 * h + s)  # noqa: E731
    found = flt.diagnose(step, torch.randn(60, 8).double(), state=torch.zeros(8).double(), horizon=4)
    assert (found.name, found.seconds, found.channels) == ("step", None, 8)
    assert found.exponents[0] <= math.log(0.5)


def test_numbers_of_a_linear_map():
    """h -> a h + s: the gradient at lag d is a^d, the memory (1 - a^2) a^(2 d)."""
    a, horizon = 0.8, 20
    inputs = jax.random.normal(jax.random.key(0), (4000, 1))
    found = fl.diagnose(lambda h, s: a * h + s, inputs, state=jnp.zeros(1), horizon=horizon)
    np.testing.assert_allclose(found.log_gradient, math.log(a) * np.arange(2 * horizon + 1), atol=1e-9)
    np.testing.assert_allclose(found.memory[:4], (1 - a * a) * a ** (2 * np.arange(4)), atol=0.05)
    assert found.depth == math.ceil(math.log(1e-2) / math.log(a)) == 21
    assert (found.alive, found.verdict) == (1, "unwritten")
    assert "1 of 20 inputs can be read" in found.advice()[-1]


def test_text_and_picture():
    pytest.importorskip("matplotlib")
    found = fl.diagnose(gru(), bits(2), horizon=HORIZON)
    text = str(found)
    assert text.splitlines()[0] == "network     GRU, 32 coordinates, 1 inputs; horizon 20 steps"
    assert "the gate that writes is open to 0." in text and "ms per epoch)" in text and "gates='open'" in text
    assert max(map(len, text.splitlines())) < 150 and repr(found) == text
    figure = found.plot()
    assert [ax.get_xlabel() for ax in figure.axes] == ["index $i$", "lag (steps)", "lag (steps)"]
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), found.memory)
    figure.canvas.draw()


def test_the_settings_that_a_diagnosis_suggests():
    assert settings_for(64, 1, 40, 200) == (48, 80)  # those of the table
    assert settings_for(64, 1, 10, 15) == (16, 15)
    assert settings_for(2, 3, 10, 200) == (1, 20)
    assert settings_for(96, 16, 39, 300) == (16, 78)  # an embedding: one input


def test_autonomous_and_unmeasurable():
    """An integrator drifts: its memory cannot be measured, and the diagnosis says so."""
    found = fl.diagnose(lambda h, s: h + s, jnp.ones((50, 1)), state=jnp.zeros(1), horizon=5, cost=False)
    assert found.memory is None and "cannot be measured" in str(found) and found.verdict == "unknown"


def test_bad_input():
    with pytest.raises(ValueError, match="inputs must be longer than the horizon of 200 steps, got 120 steps"):
        fl.diagnose(gru(), bits(2), horizon=200)
    with pytest.raises(ValueError, match="horizon must be an integer of at least 1"):
        fl.diagnose(gru(), bits(2), horizon=0)


def test_the_command(tmp_path, capsys):
    plot = tmp_path / "plots" / "diagnosis.png"
    main(["diagnose", "--units", "12", "--delay", "3", "--plot", str(plot)])
    assert "horizon 6 steps" in capsys.readouterr().out and plot.exists()
    for arguments, message in (
        (["--inputs", "x.npy"], "inputs must come with --weights"),
        (["--weights", "x.pt"], "inputs must be given for weights"),
        (["--weights", "x.pt", "--inputs", "x.npy"], "horizon must be given for weights"),
        (["--weights", "x.pt", "--delay", "3"], "weights must come without --run"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["diagnose", *arguments])
        assert end.value.code == 2 and message in capsys.readouterr().err


def test_weights_of_torch_are_advised_as_torch(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(torch.nn.GRU(1, 8).state_dict(), tmp_path / "a.pt")
    np.save(tmp_path / "inputs.npy", np.random.default_rng(0).normal(size=(200, 1)))
    files = ["--weights", str(tmp_path / "a.pt"), "--inputs", str(tmp_path / "inputs.npy")]
    main(["diagnose", *files, "--horizon", "20", "--plot", str(tmp_path / "a.png")])
    said = capsys.readouterr().out
    assert "flossing.pytorch.open_gates(module)" in said and "flossing.cells" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "GRU", "LSTM", "Dale tanh"])
def test_networks_of_the_table(name):
    """As drawn none of ten solves the task, flossed with the default loss nine or ten do."""
    from flossing_lab.comparison.protocol import read_trial
    from flossing_lab.runs.catalogue import CELLS

    kind = read_trial(Path(__file__).parents[1] / "comparison" / "writing.toml").networks[name]
    jax.config.update("jax_enable_x64", False)
    for seed in (101, 102):
        cell = CELLS[kind.cell](64, 1, key=jax.random.key(seed), **kind.options)
        inputs = bits(5, 200, jnp.float32)
        assert fl.diagnose(cell, inputs, horizon=40, cost=False).verdict in ("vanishes", "unwritten")
        draw = lambda key: jax.random.bernoulli(key, 0.5, (100, 1)).astype(jnp.float32)  # noqa: E731
        cell = fl.floss(cell, draw, k=48, epochs=500, report=False)[0]
        assert fl.diagnose(cell, inputs, horizon=40, cost=False).verdict == "ready"


def test_gradients_of_the_last_steps_are_those_along_the_whole_sequence():
    torch.manual_seed(0)
    module, inputs = torch.nn.GRU(1, 6), torch.randn(30, 1)
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    whole, last = (_gradient(module, inputs, lags, each, {}) for lags, each in zip((30, 10), draws, strict=True))
    assert len(last) == 11
    np.testing.assert_allclose(last, whole[:11], rtol=0, atol=1e-4)
