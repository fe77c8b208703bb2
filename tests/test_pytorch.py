"""Exponents of torch's modules: both engines, the JAX library and exact values agree."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import flossing.pytorch as flt  # noqa: E402
from flossing import _orthonormal  # noqa: E402
from flossing.pytorch import _orthonormal as torch_orthonormal, _tangent  # noqa: E402

# What torch's forward mode says of torch, the first time it is used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

DOUBLE = {"dtype": torch.float64}
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


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def loss_of(module, inputs, **options):
    """Exponents, loss and gradients by name, of a module whose parameters hold no gradient yet."""
    exponents = flt.lyapunov_spectrum(module, None, inputs, **options).exponents
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
    """What `loss_of` gives, by the JAX library alone, with a state of one array a layer, h before c."""
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
        exponents = fl.lyapunov_spectrum(step, start, inputs.numpy(), **options).exponents
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
        whole = flt.lyapunov_spectrum(module, None, inputs, k=K, engine="torch")
        first = flt.lyapunov_spectrum(module, None, inputs[:14], k=K, engine="torch")
        then = flt.lyapunov_spectrum(module, first.state, inputs[14:], basis=first.basis, engine="torch")
        if name in LAYERED:
            expected = module(inputs)[1]
        else:
            expected = None
            for s in inputs:
                expected = module(s, expected)
    torch.testing.assert_close(whole.state, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(then.state, expected, rtol=0, atol=1e-12)
    alive = whole.growth.isfinite()  # rectified units lose directions, for good in one run
    torch.testing.assert_close(torch.cat([first.growth, then.growth])[alive], whole.growth[alive], rtol=0, atol=1e-9)


@pytest.mark.parametrize("engine", ["torch", "jax"])
@pytest.mark.parametrize("name", ["GRU", "LSTM, two layers", "LSTMCell"])
def test_many_sequences_are_each_on_its_own(name, engine):
    module, sequences = MODULES[name](), torch.randn(3, 8, CHANNELS, **DOUBLE)
    batch = sequences if getattr(module, "batch_first", False) else sequences.transpose(0, 1)
    options = {"k": 3, "engine": engine, "transient": 2}
    with torch.no_grad():
        spectrum = flt.lyapunov_spectrum(module, None, batch, **options)
        each = [flt.lyapunov_spectrum(module, None, s, **options) for s in sequences]
        if name in LAYERED:
            torch.testing.assert_close(spectrum.state, module(batch)[1], rtol=0, atol=1e-12)
    alone = torch.stack([one.exponents for one in each])
    torch.testing.assert_close(spectrum.exponents, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.mean(), alone.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.spread(), alone.std(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.basis[1], each[1].basis, rtol=0, atol=1e-10)


def oldest_tanh(x):
    """tanh as an operation without forward derivative and without batching rule."""
    return _OldTanh.apply(x)


class _OldTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(y := x.tanh())
        return y

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


def ways_taken(monkeypatch):
    taken, choose = [], _tangent._first_that_works
    monkeypatch.setattr(_tangent, "_first_that_works", lambda *a: taken.append(way := choose(*a)) or way)
    return taken


@pytest.mark.parametrize("interval", [1, 3])
def test_all_ways_to_push_tangents_agree(monkeypatch, interval):
    """Jacobians of many steps at once, forward mode, and plain autograd where `torch.func` is refused."""
    W = (torch.randn(5, 5, **DOUBLE) / 2).requires_grad_()
    inputs = torch.randn(70, 5, **DOUBLE)  # more steps than are taken together
    taken, results = ways_taken(monkeypatch), []
    for small, function in ((128, torch.tanh), (0, torch.tanh), (128, oldest_tanh)):
        monkeypatch.setattr(_tangent, "SMALL", small)
        options = {"k": 3, "transient": 4, "interval": interval}
        h = torch.zeros(5, **DOUBLE)
        spectrum = flt.lyapunov_spectrum(lambda h, s, f=function: f(W @ h + s), h, inputs, **options)
        (gradient,) = torch.autograd.grad(flt.flossing_loss(spectrum.exponents), W)
        with torch.no_grad():
            again = flt.lyapunov_spectrum(lambda h, s, f=function: f(W @ h + s), h, inputs, **options)
        torch.testing.assert_close(again.growth, spectrum.growth.detach(), rtol=0, atol=1e-11)
        results.append((spectrum.growth.detach(), spectrum.state.detach(), gradient))
    assert [way.__name__ for way in taken[::2]] == ["_together", "_forward", "_backward"]
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            torch.testing.assert_close(ours, first, rtol=0, atol=1e-11)


@pytest.mark.parametrize("old", [False, True])
def test_a_triangular_step(old):
    """h' = W h with W upper triangular, from the identity: Q stays the identity, R = W, and the growth of direction i
    is log|W_ii| at every step. A change of W_ii alone leaves W triangular, so that d lambda_i / d W_jj is
    1 / W_ii for i = j and 0 otherwise."""
    diagonal = torch.tensor([-1.5, 0.5, 0.25], **DOUBLE)
    W = (torch.triu(torch.randn(3, 3, **DOUBLE), 1) + torch.diag(diagonal)).requires_grad_()
    identity = _Identity.apply if old else (lambda h: h)
    h, options = torch.ones(3, **DOUBLE), {"steps": 8, "basis": torch.eye(3), "transient": 2, "interval": 2}
    spectrum = flt.lyapunov_spectrum(lambda h, _: identity(W @ h), h, None, **options)
    logs = diagonal.abs().log()
    torch.testing.assert_close(spectrum.exponents.detach(), logs, rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.growth.detach(), (2 * logs).expand(3, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.transient_growth.detach(), 2 * logs[None], rtol=0, atol=1e-12)
    for i in range(3):
        (gradient,) = torch.autograd.grad(spectrum.exponents[i], W, retain_graph=True)
        expected = torch.zeros(3, **DOUBLE)
        expected[i] = 1 / diagonal[i]
        torch.testing.assert_close(gradient.diagonal(), expected, rtol=0, atol=1e-10)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Spike(torch.autograd.Function):
    """A spike with the derivative of a fast sigmoid, as spiking libraries write it."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (v,) = ctx.saved_tensors
        return gradient / (1 + v.abs()) ** 2


def test_surrogate_spikes_are_those_of_the_jax_cell():
    """The same binary network as a step of torch, through an autograd.Function, and as `fl.cells.BinaryRNN` with
    sharpness 1 in the tangent: exponents, and the gradient, which holds the surrogate's derivative."""
    cell = fl.cells.BinaryRNN(8, 2, key=jax.random.key(1), gain=3.0, tangent_beta=1.0)
    bits = jax.random.bernoulli(jax.random.key(2), shape=(20, 2)).astype(float)
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (8, 3)))[0]

    def loss(J):
        step = eqx.tree_at(lambda c: c.J, cell, J)
        return jnp.square(
            fl.lyapunov_spectrum(lambda h, s: step(s, h), cell.zeros(), bits, basis=basis).exponents
        ).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(cell.J)
    J, ws, b, s, q = (torch.from_numpy(np.array(x)) for x in (cell.J, cell.ws, cell.b, bits, basis))
    J.requires_grad_()
    step = lambda h, s: Spike.apply(J @ h + b + ws @ s)  # noqa: E731
    ours = flt.lyapunov_spectrum(step, torch.zeros(8, **DOUBLE), s, basis=q).exponents.square().sum()
    ours.backward()
    np.testing.assert_allclose(ours.item(), value, rtol=1e-10)
    np.testing.assert_allclose(J.grad, gradient, rtol=0, atol=1e-10)
    assert np.abs(gradient).max() > 1e-3


def test_neurons_of_snntorch():
    """Leaky neurons with recurrent weights; their spikes written out, v / (1 + 5 |v|) having the surrogate's
    derivative, give the same exponents and gradients."""
    snn = pytest.importorskip("snntorch")
    W = torch.randn(6, 6).requires_grad_()
    neuron = snn.Leaky(beta=0.8, spike_grad=snn.surrogate.fast_sigmoid(slope=5))
    inputs, zero = torch.rand(25, 6), torch.zeros(6)

    def theirs(state, s):
        return neuron(W @ state[0] + s, state[1])

    def written_out(state, s):
        spikes, v = state
        v = 0.8 * v + W @ spikes + s - (v > 1).float()
        soft = (v - 1) / (1 + 5 * (v - 1).abs())
        return (v > 1).float() + soft - soft.detach(), v

    found = []
    for step in (theirs, written_out):
        exponents = flt.lyapunov_spectrum(step, (zero, zero), inputs, k=3).exponents
        found.append((exponents.detach(), *torch.autograd.grad(exponents.square().sum(), W)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_a_state_is_any_tree_of_tensors():
    """z' = 0.5 e^i z turns its plane by 1 and shrinks it: both exponents are log 0.5; x' = 2 x beside it has log 2.
    The counter has no tangent."""

    def step(state, _):
        turn = torch.polar(torch.tensor(0.5, **DOUBLE), torch.tensor(1.0, **DOUBLE))
        return {"z": turn * state["z"], "x": (2 * state["x"][0],), "n": state["n"] + 1}

    start = {"z": torch.ones(1, dtype=torch.complex128), "x": (torch.ones(1, **DOUBLE),), "n": torch.tensor(0)}
    spectrum = flt.lyapunov_spectrum(step, start, None, steps=40, transient=20)
    expected = torch.tensor([np.log(2), np.log(0.5), np.log(0.5)], **DOUBLE)
    torch.testing.assert_close(spectrum.exponents, expected, rtol=0, atol=1e-10)
    assert spectrum.state["n"] == 40


def test_the_rule_of_the_qr_decomposition():
    """Its pullback is that of `torch.linalg.qr` with the signs made positive. A dependent column gives -inf, from there
    on, without gradient, and leaves the others theirs."""
    a = torch.randn(6, 4, **DOUBLE).requires_grad_()
    weights = torch.randn(6, 4, **DOUBLE), torch.randn(4, **DOUBLE)
    q, log_r = torch_orthonormal.orthonormalise(a)
    p, r = torch.linalg.qr(a)
    p = p * r.diagonal().sign()
    for ours, theirs in zip((q, log_r), (p, r.diagonal().abs().log()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    ours = torch.autograd.grad((q * weights[0]).sum() + (log_r * weights[1]).sum(), a)
    theirs = torch.autograd.grad((p * weights[0]).sum() + (r.diagonal().abs().log() * weights[1]).sum(), a)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)

    b = torch.cat([a[:, :2], a[:, :1] - a[:, 1:2], a[:, 3:]], dim=1).detach().requires_grad_()
    q, log_r = torch_orthonormal.orthonormalise(b)
    assert log_r.isneginf().tolist() == [False, False, True, True]
    torch.testing.assert_close(q.mT @ q, torch.eye(4, **DOUBLE), rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(log_r.sum(), b)
    assert (gradient[:, 2:] == 0).all() and (gradient[:, :2] != 0).all()
    assert torch_orthonormal.ROUNDING == _orthonormal.ROUNDING


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_singular_directions_are_lost_without_gradient(engine):
    """W_hh with one entry: h' = tanh(W_hh h + ...) has one direction. lambda_2 is -inf, lambda_1 keeps its gradient."""
    module = nn.RNN(CHANNELS, 4, **DOUBLE)
    with torch.no_grad():
        module.weight_hh_l0.zero_()[0, 0] = 0.5
    spectrum = flt.lyapunov_spectrum(module, None, torch.randn(9, CHANNELS, **DOUBLE), k=2, engine=engine)
    assert spectrum.exponents[0].isfinite() and spectrum.exponents[1].isneginf()
    (lost,) = torch.autograd.grad(spectrum.exponents[1], module.weight_hh_l0, retain_graph=True)
    (kept,) = torch.autograd.grad(spectrum.exponents[0], module.weight_hh_l0)
    assert (lost == 0).all() and kept[0, 0] != 0


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_step_that_forgets_its_state_is_said(engine):
    module = nn.RNN(CHANNELS, 4)
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    with pytest.warns(UserWarning, match="all exponents are -inf: step forgets its state"):
        flt.lyapunov_spectrum(module, None, torch.ones(5, CHANNELS), k=2, engine=engine)


def test_a_step_written_in_torch_that_forgets_its_state_is_said():
    with pytest.warns(UserWarning, match="all exponents are -inf: step forgets its state"):
        flt.lyapunov_spectrum(lambda h, s: Spike.apply(s), torch.zeros(3), torch.ones(5, 3))


def test_gradients_reach_state_and_inputs():
    """By both engines, against one another and against a central difference, good to about 1e-9."""
    module = nn.GRU(2, 4, **DOUBLE)
    direction = torch.randn(9, 2, **DOUBLE), torch.randn(1, 4, **DOUBLE)
    start = torch.randn(9, 2, **DOUBLE), torch.randn(1, 4, **DOUBLE)

    def value(inputs, state, engine="torch"):
        return flt.lyapunov_spectrum(module, state, inputs, k=2, engine=engine).exponents.sum()

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
        spectrum = flt.lyapunov_spectrum(module, None, torch.zeros(6, CHANNELS, **DOUBLE), engine=engine)
        spectrum.exponents[0].backward()
    assert len(calls) == len(gradients) == 2 and gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_weights_changed_before_the_backward_pass_are_an_error():
    """torch's own rule for what was saved; the compiled engine must not return a stale gradient."""
    module = nn.RNN(CHANNELS, 4)
    exponents = flt.lyapunov_spectrum(module, None, torch.ones(5, CHANNELS), k=1, engine="jax").exponents
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        exponents.sum().backward()


def test_float32_stays_and_the_configuration_of_jax_is_left_alone():
    module = nn.GRU(CHANNELS, 4)
    for x64 in (True, False):
        with jax.enable_x64(x64):
            spectrum = flt.lyapunov_spectrum(module, None, torch.ones(5, CHANNELS), k=2, engine="jax")
            assert jax.config.jax_enable_x64 == x64
        assert spectrum.exponents.dtype == spectrum.basis.dtype == spectrum.state.dtype == torch.float32


def test_no_jax_is_imported_unless_it_runs():
    code = """
import sys, torch
import flossing.pytorch as flt
flt.flossing_loss(flt.lyapunov_spectrum(torch.nn.GRU(1, 3), None, torch.ones(4, 1), engine="torch").exponents)
assert "jax" not in sys.modules
flt.lyapunov_spectrum(torch.nn.GRU(1, 3), None, torch.ones(4, 1))
assert "jax" in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
