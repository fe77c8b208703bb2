"""Results as text, data frames and datasets, and their plots: numbers where they belong, for JAX and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._views import as_numpy

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")

CELL = fl.cells.VanillaRNN(6, 1, key=jax.random.key(0))
INPUTS = jax.random.normal(jax.random.key(1), (400, 1))


@pytest.fixture(autouse=True)
def figures():
    yield
    plt.close("all")


def diagonal(rates, steps=200, batch=None):
    """A constant diagonal map; its exponents are `rates`."""
    shape = (steps, 1) if batch is None else (batch, steps, 1)
    state = jnp.zeros(len(rates))
    step = lambda h, s: jnp.exp(jnp.asarray(rates)) * h  # noqa: E731
    return fl.lyapunov_spectrum(
        step, jnp.zeros(shape), state=state, basis=jnp.eye(len(rates)), batched=batch is not None, transient=0
    )


def torch_results():
    torch, flt = pytest.importorskip("torch"), pytest.importorskip("flossing.pytorch")
    rnn, inputs = torch.nn.RNN(1, 6).double(), torch.tensor(np.asarray(INPUTS))
    return flt.lyapunov_spectrum(rnn, inputs, k=4), flt.floss(rnn, inputs[:40], k=4, epochs=4, report=False)


def jax_results():
    with jax.numpy_dtype_promotion("standard"):
        history = fl.floss(CELL, INPUTS[:40], k=4, epochs=4, report=False)[1]
    return fl.lyapunov_spectrum(CELL, INPUTS, k=4), history


def test_text():
    short = diagonal([-0.1, -0.25, -2.0], steps=100)
    assert repr(short) == "Spectrum(k=3: -0.1000 ... -2.0000 per step, over 100 steps (too few for errors))"
    assert short.table() == "   1  -0.1000      2  -0.2500      3  -2.0000"
    assert repr(diagonal([-0.1], batch=2)) == (
        "Spectrum(k=1: -0.1000 ± 0.0000 per step, mean of 2 sequences, over 200 steps)"
    )
    lost = fl.lyapunov_spectrum(lambda h, s: h * jnp.asarray([1.0, 0.0]), jnp.zeros(200), state=jnp.ones(2))
    assert lost.table().splitlines()[-1] == "   1  +0.0000 ± <0.0000      2  -inf"  # constant growth: a bound
    assert "ShapeDtypeStruct(shape=(3,)" in repr(jax.eval_shape(lambda s: s, short))
    traced = []
    jax.jit(lambda s: traced.append(repr(s)))(short)
    assert traced[0].startswith("Spectrum(\n")


def test_long_results_are_shown_in_one_line():
    long = fl.lyapunov_spectrum(CELL, INPUTS, k=4)
    assert repr(long.uncertainty()).startswith("Uncertainty(standard_error 0.0")
    assert "shape (4,); 19 degrees" in repr(long.uncertainty())
    vectors = fl.covariant_vectors(CELL, INPUTS[:60], k=4)
    assert repr(vectors).startswith(f"CovariantVectors(k=4: exponents {float(vectors.exponents[0]):+.4f} ... ")
    assert "vectors (" in repr(vectors)
    assert "; measured)" in repr(fl.covariant_vectors(CELL, INPUTS[:60], k=4, measure=fl.angles_between))
    memory = fl.memory_function(CELL, INPUTS, delays=5)
    assert repr(memory).startswith(f"MemoryFunction(5 delays, 1 channels: capacity {memory.capacity().value:.2f} ± ")
    traced = []
    jax.jit(lambda s: traced.append(repr((s.uncertainty(), fl.covariant_vectors(CELL, INPUTS[:60], k=2)))))(long)
    assert "Tracer" in traced[0]


@pytest.mark.parametrize("results", [jax_results, torch_results])
def test_frames(results):
    pandas = pytest.importorskip("pandas")
    spectrum, history = results()
    frame, exponents = spectrum.to_dataframe(), as_numpy(spectrum.exponents)
    assert isinstance(frame, pandas.DataFrame) and list(frame.index) == [1, 2, 3, 4]
    np.testing.assert_array_equal(frame.exponent, exponents)
    np.testing.assert_allclose(frame.standard_error, spectrum.uncertainty().standard_error)
    dataset = spectrum.to_xarray()
    np.testing.assert_array_equal(dataset.exponents.sel(i=2), exponents[1])
    np.testing.assert_allclose(dataset.log_growth.mean("block"), exponents)
    epochs = history.to_dataframe()
    np.testing.assert_array_equal(epochs.exponent_4, as_numpy(history.exponents)[:, 3])
    np.testing.assert_array_equal(epochs.loss.loc[1], float(history.loss[0]))
    assert repr(history).startswith("FlossingHistory(4 epochs, k=4: loss ")


def test_frame_of_many_sequences():
    many = diagonal([-0.1, -0.2], batch=3)
    frame, dataset = many.to_dataframe(), many.to_xarray()
    assert frame.exponent.loc[2, 2] == pytest.approx(-0.2)
    assert frame.index.names == ["sequence", "i"]
    assert dict(dataset.sizes) == {"sequence": 3, "i": 2, "block": 200}
    np.testing.assert_allclose(dataset.log_growth.mean("block"), many.exponents)


def test_units_and_lengths_in_text():
    decay = lambda h, s: 0.9 * h  # noqa: E731
    timed = fl.lyapunov_spectrum(decay, jnp.zeros(100), state=jnp.ones(1), time_step=0.1)
    assert "-1.0536 per unit of time, over" in repr(timed)
    options = {"state": jnp.ones(1), "batched": True, "lengths": [40, 22], "transient": 4}
    assert "over 18 to 36 steps" in repr(fl.lyapunov_spectrum(decay, jnp.zeros((2, 40)), **options))


def test_the_history_of_several_sequences_shows_their_mean():
    with jax.numpy_dtype_promotion("standard"):
        history = fl.floss(CELL, INPUTS.reshape(10, 40, 1)[:3], k=2, epochs=3, batched=True, report=False)[1]
    assert history.exponents.shape == (3, 3, 2)
    np.testing.assert_allclose(history.to_dataframe().exponent_2, history.exponents[:, :, 1].mean(1))
    shown = " ... ".join(f"{value:+.4f}" for value in history.exponents[0].mean(0))
    assert f"FlossingHistory(3 epochs, k=2: loss {history.loss[0]:.4g} -> " in repr(history) and shown in repr(history)


def test_the_state_of_a_flosser_in_text():
    state = fl.Flosser(window=8, k=3).init(CELL)
    assert repr(state).startswith("FlosserState(step 0: reach=nan, exponent_1=nan, ")


@pytest.mark.parametrize("results", [jax_results, torch_results])
def test_plots_show_the_numbers(results):
    spectrum, history = results()
    exponents = as_numpy(spectrum.exponents)
    (fig, (first, second)) = plt.subplots(1, 2)
    ax = fl.plots.spectrum(spectrum, spectrum, labels=("one", "two"), ax=first)
    assert ax is first
    line, _, (bars,) = first.containers[0]
    np.testing.assert_allclose(line.get_ydata(), exponents)
    lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 4 * np.asarray(spectrum.uncertainty().standard_error))
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["one", "two"]
    fl.plots.convergence(spectrum, count=2, ax=second)
    assert [line.get_ydata()[-1] for line in second.lines] == pytest.approx([exponents[0], exponents[3]])
    ax = fl.plots.flossing(history, ax=fig.add_subplot())
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), as_numpy(history.exponents)[:, -1])
    fig.canvas.draw()


def test_plots_of_gradients_and_jacobians():
    rates = [-0.1, -0.3]
    step = lambda h, s: jnp.exp(jnp.asarray(rates)) * h  # noqa: E731
    norms = fl.backpropagated_norms(step, jnp.zeros(50), lambda h: h[-1, 0], state=jnp.ones(2))
    ax = fl.plots.gradient_norms(norms)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), -0.1 * np.arange(51) / np.log(10), atol=1e-12)
    jacobian = fl.long_term_jacobian(step, jnp.zeros(50), state=jnp.ones(2))
    ax = fl.plots.condition_number(jacobian, [*rates, -np.inf], k=2, ax=plt.figure().add_subplot())
    for line in ax.lines:
        np.testing.assert_allclose(line.get_ydata(), 0.2 * np.arange(1, 51) / np.log(10), atol=1e-9)


def test_angles_of_vectors_and_of_measured_angles():
    """The counts of both ways are the same, and those of two vectors at 45 degrees lie there."""
    step = lambda h, s: jnp.asarray([[2.0, -1.0], [0.0, 1.0]]) @ h  # noqa: E731
    options = {"state": jnp.zeros(2), "steps": 60, "transient": 30}
    vectors = fl.covariant_vectors(step, None, **options)
    angles = fl.covariant_vectors(step, None, **options, measure=fl.angles_between)
    one, other = (fl.plots.angles(each, ax=plt.figure().add_subplot(), bins=9) for each in (vectors, angles))
    first, second = (ax.patches[0].get_path().vertices for ax in (one, other))
    np.testing.assert_allclose(first, second)
    inside = first[first[:, 1] > 0][:, 0]
    assert inside.min() == pytest.approx(40) and inside.max() == pytest.approx(50)


def test_without_the_packages(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="this needs pandas: pip install pandas"):
        diagonal([-0.1]).to_dataframe()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'flossing\\[plots\\]'"):
        fl.plots.spectrum(diagonal([-0.1]))
