"""Batches of sequences of unequal length: each row equals its sequence alone, in JAX and in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_sequence

import flossing as fl
import flossing.pytorch as flt
from flossing.pytorch import _jax_engine

LENGTHS = (30, 20, 12)
CELL = fl.cells.GRU(6, 2, key=jax.random.key(0))
ROWS = [jax.random.normal(jax.random.key(i), (n, 2)) for i, n in enumerate(LENGTHS)]
PADDED = jnp.stack([jnp.concatenate([row, jnp.full((30 - len(row), 2), 1e30)]) for row in ROWS])


@pytest.mark.parametrize(
    "options",
    [{}, {"interval": 3}, {"interval": 4, "transient": 5}, pytest.param({"interval": "auto"}, marks=pytest.mark.slow)],
)
def test_each_row_is_its_sequence_alone(options):
    found = fl.lyapunov_spectrum(CELL, PADDED, lengths=LENGTHS, k=3, **options)
    for row, spectrum in enumerate(fl.lyapunov_spectrum(CELL, each, k=3, **options) for each in ROWS):
        np.testing.assert_allclose(found.exponents[row], spectrum.exponents, atol=1e-12)
        np.testing.assert_allclose(found.state[row], spectrum.state, atol=1e-12)
        assert found.steps_of_each[row] == spectrum.steps
    np.testing.assert_allclose(found.running_mean()[:, -1], found.exponents, atol=1e-12)


def test_padding_has_no_gradient():
    gradient = jax.grad(lambda s: fl.lyapunov_spectrum(CELL, s, lengths=LENGTHS, k=3).exponents.sum())(PADDED)
    assert np.isfinite(gradient).all()
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(gradient[row, length:], 0)
        alone = jax.grad(lambda s: fl.lyapunov_spectrum(CELL, s, k=3).exponents.sum())(ROWS[row])
        np.testing.assert_allclose(gradient[row, :length], alone, atol=1e-10)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("interval", [1, "auto"])
def test_floss_along_a_ragged_batch(interval):
    options = {"k": 3, "epochs": 2, "interval": interval, "report": False, "loss": fl.losses.exponents}
    basis = fl.Flossing(CELL, ROWS[0], k=3).basis
    _, history = fl.floss(CELL, PADDED, lengths=LENGTHS, basis=basis, **options)
    alone = jnp.stack([fl.lyapunov_spectrum(CELL, row, basis=basis, transient=t).exponents for row, t in
                       zip(ROWS, (13, 10, 6), strict=True)])  # fmt: skip
    np.testing.assert_allclose(history.exponents[0], alone, atol=1e-12)
    assert history.exponents.shape == (2, 3, 3)
    np.testing.assert_allclose(history.loss[0], np.mean(np.square(alone)))


@pytest.mark.usefixtures("optax_promotion")
def test_lengths_beyond_the_window():
    """The window cuts longer sequences: their exponents are those of its steps, in JAX and in torch."""
    windowed = fl.lyapunov_spectrum(CELL, PADDED, lengths=LENGTHS, steps=15, k=2).exponents
    for row, length in enumerate(LENGTHS):
        alone = fl.lyapunov_spectrum(CELL, ROWS[row][:15] if length > 15 else ROWS[row], k=2).exponents
        np.testing.assert_allclose(windowed[row], alone, atol=1e-12)
    options = {"k": 2, "epochs": 1, "window": 15, "report": False}
    history = fl.floss(CELL, PADDED, lengths=LENGTHS, **options)[1]
    assert history.exponents.shape == (1, 3, 2)
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    rows = torch.randn(2, 20, 4, dtype=torch.float64)
    options |= {"batched": True, "lengths": [20, 9], "state": torch.zeros(4, dtype=torch.float64)}
    assert (
        flt.floss(lambda h, s: torch.tanh(weight @ h + s), rows, parameters=[weight], **options).loss.isfinite().all()
    )


@pytest.mark.usefixtures("optax_promotion")
def test_a_batch_is_flossed_by_the_mean_of_its_sequences():
    inputs = jax.random.normal(jax.random.key(3), (4, 25, 2))
    options = {"loss": fl.losses.exponents}
    flossing = fl.Flossing(CELL, inputs, k=2, **options)
    each = [fl.Flossing(CELL, row, basis=flossing.basis, **options) for row in inputs]

    def gradient_of(flossing):
        return jax.jit(jax.grad(flossing.loss, allow_int=True))(CELL, jax.random.key(0))

    gradient = gradient_of(flossing)
    mean = jax.tree.map(lambda *g: sum(g) / 4, *map(gradient_of, each))
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((30, 20), "lengths must be one integer for each of 3 sequences, got int64 of shape"),
        ((30, 20, 0), r"lengths must be from 1 to 30, the padded length, got lengths\[2\]=0"),
        ((30, 31, 2), r"lengths must be from 1 to 30, the padded length, got lengths\[1\]=31"),
    ],
)
def test_bad_lengths_are_one_line(lengths, message):
    with pytest.raises(ValueError, match=message):
        fl.lyapunov_spectrum(CELL, PADDED, lengths=lengths, k=3)
    with pytest.raises(ValueError, match=message.replace("int64", "torch.int64")):
        flt.lyapunov_spectrum(torch.nn.GRU(2, 6), torch.zeros(30, 3, 2), lengths=lengths, k=3)


def test_lengths_want_a_batch_and_a_shorter_transient():
    with pytest.raises(ValueError, match="lengths must come with a batch"):
        fl.lyapunov_spectrum(CELL, ROWS[0], lengths=[30])
    with pytest.raises(ValueError, match="transient must be below the smallest of lengths, 12, got transient=15"):
        fl.lyapunov_spectrum(CELL, PADDED, lengths=LENGTHS, transient=15)
    with pytest.raises(ValueError, match="uncertainty must be of sequences of one length"):
        fl.lyapunov_spectrum(CELL, PADDED, lengths=LENGTHS).uncertainty(2)


@pytest.mark.parametrize("engine", ["jax", "torch"])
def test_packed_sequences_and_lengths_in_torch(engine):
    torch.manual_seed(0)
    module, rows = torch.nn.GRU(2, 6).double(), [torch.tensor(np.asarray(row)) for row in ROWS]
    alone = torch.stack([flt.lyapunov_spectrum(module, row, k=3).exponents.detach() for row in rows])
    for interval in (1, 3):
        options = {"k": 3, "interval": interval, "engine": engine}
        packed = flt.lyapunov_spectrum(module, pack_sequence(rows), **options)
        padded = flt.lyapunov_spectrum(module, pad_sequence(rows), lengths=LENGTHS, **options)
        for found in (packed, padded):
            torch.testing.assert_close(found.exponents.detach(), alone, rtol=0, atol=1e-12)
            torch.testing.assert_close(found.running_mean()[:, -1], found.exponents, rtol=0, atol=1e-12)
    history = flt.floss(module, pack_sequence(rows), k=3, epochs=1, engine=engine, report=False)
    torch.testing.assert_close(history.exponents[0], alone, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="lengths must be left out for a packed sequence"):
        flt.lyapunov_spectrum(module, pack_sequence(rows), lengths=LENGTHS)


def test_lengths_of_a_step_in_torch():
    torch.manual_seed(0)
    weight, rows = torch.randn(4, 4).double() / 2, [torch.randn(n, 4).double() for n in LENGTHS]
    step = lambda h, s: torch.tanh(weight @ h + s)  # noqa: E731
    start = torch.zeros(4).double()
    alone = torch.stack([flt.lyapunov_spectrum(step, row, state=start).exponents for row in rows])
    padded = pad_sequence(rows, batch_first=True)
    found = flt.lyapunov_spectrum(step, padded, state=start, batched=True, lengths=LENGTHS)
    torch.testing.assert_close(found.exponents, alone, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="inputs must be padded for a step of your own, got a PackedSequence"):
        flt.lyapunov_spectrum(step, pack_sequence(rows), state=start)


@pytest.mark.parametrize("batch", [None, 3])
def test_sequences_of_many_lengths_share_a_program(batch):
    """All fields and their gradients are those of the torch engine, which pads nothing; nothing is compiled again."""
    torch.manual_seed(0)
    module, programs = torch.nn.LSTM(2, 4).double(), 0
    basis = torch.linalg.qr(torch.randn(8, 3).double())[0]
    for length, transient, interval in ((9, None, 1), (40, 7, 3), (33, 0, 2), (7, 3, 2**31), (128, None, 1)):
        inputs = torch.randn(*((length, 2) if batch is None else (length, batch, 2)), dtype=torch.float64)
        found = {}
        for engine in ("jax", "torch"):
            options = {"k": 3, "transient": transient, "interval": interval, "engine": engine}
            inputs.grad, inputs.requires_grad = None, True
            module.zero_grad()
            s = flt.lyapunov_spectrum(module, inputs, basis=basis, **options)
            fields = s.exponents, s.log_growth, s.transient_log_growth, s.basis, *s.state
            weights = (torch.linspace(-1, 1, f.numel(), dtype=f.dtype).reshape(f.shape) for f in fields)
            torch.stack([(w * f).sum() for w, f in zip(weights, fields, strict=True)]).sum().backward()
            found[engine] = [*fields, inputs.grad, *(p.grad for p in module.parameters())]
        for ours, theirs in zip(found["jax"], found["torch"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
        compiled = _jax_engine._jitted_flow()._cache_size()
        assert programs in (0, compiled) and compiled > 0
        programs = compiled


def test_blocks_beyond_the_end_grow_by_nothing_also_in_a_lost_direction():
    rates = jnp.array([0.5, 0.0])
    found = fl.lyapunov_spectrum(
        lambda h, s: rates * h + s, jnp.ones((2, 8, 2)), state=jnp.zeros(2), lengths=[8, 5], batched=True, transient=2
    )
    np.testing.assert_array_equal(found.log_growth[1, 3:], 0)
    assert np.isneginf(found.log_growth[1, :3, 1]).all() and np.isneginf(found.exponents[1, 1])
