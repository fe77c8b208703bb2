"""Exponents of torch modules: both engines, the JAX library and exact values agree."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

nn = torch.nn
flt = pytest.importorskip("flossing.pytorch")

UNITS, CHANNELS, STEPS, K = 6, 3, 24, 4
MODULES = {
    "RNN": lambda: nn.RNN(CHANNELS, UNITS, **DOUBLE),
    "RNN, two layers": lambda: nn.RNN(CHANNELS, UNITS, num_layers=2, **DOUBLE),
    "GRU": lambda: nn.GRU(CHANNELS, UNITS, batch_first=True, **DOUBLE),
    "GRU, two layers": lambda: nn.GRU(CHANNELS, UNITS, num_layers=2, bias=False, **DOUBLE),
    "LSTM": lambda: nn.LSTM(CHANNELS, UNITS, bias=False, **DOUBLE),
    "LSTM, two layers": lambda: nn.LSTM(CHANNELS, UNITS, num_layers=2, **DOUBLE),
    "RNNCell": lambda: nn.RNNCell(CHANNELS, UNITS, nonlinearity="relu", **DOUBLE),
    "GRUCell": lambda: nn.GRUCell(CHANNELS, UNITS, **DOUBLE),
    "LSTMCell": lambda: nn.LSTMCell(CHANNELS, UNITS, **DOUBLE),
}
LAYERED = [name for name in MODULES if "Cell" not in name]


def loss_of(module, inputs, **options):
    """Exponents, loss and gradients by name, of a module whose parameters hold no gradient yet."""
    exponents = flt.lyapunov_spectrum(module, inputs, **options).exponents
    loss = flt.flossing_loss(exponents, 0.1)
    module.zero_grad()
    loss.backward()
    return [exponents.detach(), loss.detach(), *(p.grad for p in module.parameters())]


def jax_cells(module, names, arrays):
    """The layers as cells of Equinox, of weights under torch's names; the tanh network by its equation."""
    weights = dict(zip(names, arrays, strict=True))
    for layer in range(module.num_layers):
        w_ih, w_hh = (weights[f"weight_{part}_l{layer}"] for part in ("ih", "hh"))
        b_ih, b_hh = (weights.get(f"bias_{part}_l{layer}") for part in ("ih", "hh"))
        if isinstance(module, nn.RNN):
            yield lambda s, h, w=(w_ih, w_hh, b_ih, b_hh): jnp.tanh(w[0] @ s + w[2] + w[1] @ h + w[3])
            continue
        kind = eqx.nn.GRUCell if isinstance(module, nn.GRU) else eqx.nn.LSTMCell
        cell = kind(w_ih.shape[1], UNITS, use_bias=b_ih is not None, key=jax.random.key(0))
        cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh), cell, (w_ih, w_hh))
        if b_ih is not None and isinstance(module, nn.GRU):  # torch: the reset gate acts on W h + b_hh
            whole = jnp.concatenate([b_ih[: 2 * UNITS] + b_hh[: 2 * UNITS], b_ih[2 * UNITS :]])
            cell = eqx.tree_at(lambda c: (c.bias, c.bias_n), cell, (whole, b_hh[2 * UNITS :]))
        elif b_ih is not None:
            cell = eqx.tree_at(lambda c: c.bias, cell, b_ih + b_hh)
        yield cell


def in_jax(module, inputs, **options):
    """`loss_of` with the JAX library alone; the state has one array per layer, h before c."""
    names = [name for name, _ in module.named_parameters()]
    zero = jnp.zeros((module.num_layers, UNITS))
    lstm = isinstance(module, nn.LSTM)

    def loss(arrays):
        cells = list(jax_cells(module, names, arrays))

        def step(state, s):
            new = []
            for layer, cell in enumerate(cells):
                new.append(cell(s, (state[0][layer], state[1][layer]) if lstm else state[layer]))
                s = new[-1][0] if lstm else new[-1]
            return tuple(map(jnp.stack, zip(*new, strict=True))) if lstm else jnp.stack(new)

        start = (zero, zero) if lstm else zero
        exponents = fl.lyapunov_spectrum(step, inputs.numpy(), state=start, **options).exponents
        return fl.flossing_loss(exponents, 0.1), exponents

    arrays = [jnp.asarray(p.detach().numpy()) for p in module.parameters()]
    (value, exponents), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    return [exponents, value, *gradients]


@pytest.mark.parametrize("name", LAYERED)
def test_both_engines_and_the_jax_library_agree(name):
    """The same weights and basis: exponents, loss and every gradient, within 1e-10."""
    module, inputs = MODULES[name](), torch.randn(STEPS, CHANNELS, **DOUBLE)
    size = UNITS * module.num_layers * (2 if isinstance(module, nn.LSTM) else 1)
    options = {"basis": torch.randn(size, K, **DOUBLE).numpy(), "transient": 4, "interval": 2}
    reference = in_jax(module, inputs, **options)
    for engine in ("torch", "jax"):
        for ours, theirs in zip(loss_of(module, inputs, engine=engine, **options), reference, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
def test_the_state_is_the_modules_own_and_continues_the_run(name):
    """Its forward pass ends in the same state; 24 steps are 14 and 10 more from the state and basis in between."""
    module, inputs = MODULES[name](), torch.randn(STEPS, CHANNELS, **DOUBLE)
    with torch.no_grad():
        whole = flt.lyapunov_spectrum(module, inputs, k=K, engine="torch", transient=0)
        first = flt.lyapunov_spectrum(module, inputs[:14], k=K, engine="torch", transient=0)
        then = flt.lyapunov_spectrum(module, inputs[14:], state=first.state, basis=first.basis, engine="torch")
        if name in LAYERED:
            expected = module(inputs)[1]
        else:
            expected = None
            for s in inputs:
                expected = module(s, expected)
    torch.testing.assert_close(whole.state, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(then.state, expected, rtol=0, atol=1e-12)
    alive = whole.log_growth.isfinite()  # rectified units lose directions, for good in one run
    torch.testing.assert_close(
        torch.cat([first.log_growth, then.log_growth])[alive], whole.log_growth[alive], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("engine", ["torch", "jax"])
@pytest.mark.parametrize("name", ["GRU", "LSTM, two layers", "LSTMCell"])
def test_many_sequences_are_each_on_its_own(name, engine):
    module, sequences = MODULES[name](), torch.randn(3, 8, CHANNELS, **DOUBLE)
    batch = sequences if getattr(module, "batch_first", False) else sequences.transpose(0, 1)
    options = {"k": 3, "engine": engine, "transient": 2}
    with torch.no_grad():
        spectrum = flt.lyapunov_spectrum(module, batch, **options)
        each = [flt.lyapunov_spectrum(module, s, **options) for s in sequences]
        if name in LAYERED:
            torch.testing.assert_close(spectrum.state, module(batch)[1], rtol=0, atol=1e-12)
    alone = torch.stack([one.exponents for one in each])
    torch.testing.assert_close(spectrum.exponents, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.mean(), alone.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.std(), alone.std(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.basis[1], each[1].basis, rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_singular_directions_are_lost_without_gradient(engine):
    """W_hh with one entry: h' = tanh(W_hh h + ...) has one direction. lambda_2 is -inf, lambda_1 keeps its gradient."""
    module = nn.RNN(CHANNELS, 4, **DOUBLE)
    with torch.no_grad():
        module.weight_hh_l0.zero_()[0, 0] = 0.5
    spectrum = flt.lyapunov_spectrum(module, torch.randn(9, CHANNELS, **DOUBLE), k=2, engine=engine, transient=0)
    assert spectrum.exponents[0].isfinite()
    assert spectrum.exponents[1].isneginf()
    (lost,) = torch.autograd.grad(spectrum.exponents[1], module.weight_hh_l0, retain_graph=True)
    (kept,) = torch.autograd.grad(spectrum.exponents[0], module.weight_hh_l0)
    assert (lost == 0).all()
    assert kept[0, 0] != 0


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_step_that_forgets_its_state_is_said(engine):
    module = nn.RNN(CHANNELS, 4)
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    with pytest.warns(UserWarning, match="all exponents are -inf: step forgets its state"):
        flt.lyapunov_spectrum(module, torch.ones(5, CHANNELS), k=2, engine=engine, transient=0)


def test_gradients_reach_state_and_inputs():
    """By both engines, against one another and against a central difference, good to about 1e-9."""
    module = nn.GRU(2, 4, **DOUBLE)
    direction = torch.randn(9, 2, **DOUBLE), torch.randn(1, 4, **DOUBLE)
    start = torch.randn(9, 2, **DOUBLE), torch.randn(1, 4, **DOUBLE)

    def value(inputs, state, engine="torch"):
        return flt.lyapunov_spectrum(module, inputs, state=state, k=2, engine=engine, transient=0).exponents.sum()

    with torch.no_grad():
        ahead, behind = (value(*(x + e * d for x, d in zip(start, direction, strict=True))) for e in (1e-5, -1e-5))
    difference = (ahead - behind) / 2e-5
    for engine in ("torch", "jax"):
        leaves = [x.clone().requires_grad_() for x in start]
        gradients = torch.autograd.grad(value(*leaves, engine), leaves)
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
        torch.testing.assert_close(slope, difference, rtol=0, atol=1e-8)


def test_weights_may_be_parametrised_and_hooks_are_called():
    """An orthogonal parametrisation makes the weights anew; its own parameter gets the gradient. Forward hooks are
    called once, as by one forward pass, so that a hook may set weights."""
    calls, gradients = [], []
    module = nn.RNN(CHANNELS, 4, **DOUBLE)
    nn.utils.parametrizations.orthogonal(module, "weight_hh_l0")
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    original = module.parametrizations.weight_hh_l0.original
    original.register_hook(gradients.append)
    for engine in ("torch", "jax"):
        spectrum = flt.lyapunov_spectrum(module, torch.zeros(6, CHANNELS, **DOUBLE), engine=engine, transient=0)
        spectrum.exponents[0].backward()
    assert len(calls) == len(gradients) == 2
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_weights_changed_before_the_backward_pass_are_an_error():
    """torch's rule for modified saved tensors; the compiled engine must not return a stale gradient."""
    module = nn.RNN(CHANNELS, 4)
    exponents = flt.lyapunov_spectrum(module, torch.ones(5, CHANNELS), k=1, engine="jax", transient=0).exponents
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        exponents.sum().backward()


def test_float32_stays_and_the_configuration_of_jax_is_left_alone():
    module = nn.GRU(CHANNELS, 4)
    for x64 in (True, False):
        with jax.enable_x64(x64):
            spectrum = flt.lyapunov_spectrum(module, torch.ones(5, CHANNELS), k=2, engine="jax", transient=0)
            assert jax.config.jax_enable_x64 == x64  # pyright: ignore[reportAttributeAccessIssue]
        assert spectrum.exponents.dtype == spectrum.basis.dtype == spectrum.state.dtype == torch.float32


def test_no_jax_is_imported_unless_it_runs():
    code = """
import sys, torch
import flossing.pytorch as flt
flt.flossing_loss(flt.lyapunov_spectrum(torch.nn.GRU(1, 3), torch.ones(4, 1), engine="torch").exponents)
assert "jax" not in sys.modules
flt.lyapunov_spectrum(torch.nn.GRU(1, 3), torch.ones(4, 1))
assert "jax" in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
