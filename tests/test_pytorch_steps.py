"""Steps written in torch: all ways to propagate tangents agree with one another, with exact values and with JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._linalg import qr as _qr
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

flt = pytest.importorskip("flossing.pytorch")
from flossing.pytorch import _qr as torch_qr, _torch_engine as _tangent  # noqa: E402

# A warning from torch on the first use of its forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


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
    taken, choose = [], _tangent._first_supported
    monkeypatch.setattr(_tangent, "_first_supported", lambda *a, **o: taken.append(way := choose(*a, **o)) or way)
    return taken


@pytest.mark.parametrize("interval", [1, 3])
def test_all_ways_to_push_tangents_agree(monkeypatch, interval):
    """Jacobians of many steps at once, forward mode, and plain autograd where `torch.func` is refused."""
    W = (torch.randn(5, 5, **DOUBLE) / 2).requires_grad_()
    inputs = torch.randn(70, 5, **DOUBLE)  # more steps than are taken together
    taken, results = ways_taken(monkeypatch), []
    for small, function in ((128, torch.tanh), (0, torch.tanh), (128, oldest_tanh)):
        monkeypatch.setattr(_tangent, "MAX_JACOBIAN_SIZE", small)
        options = {"k": 3, "transient": 4, "interval": interval}
        h = torch.zeros(5, **DOUBLE)
        spectrum = flt.lyapunov_spectrum(lambda h, s, f=function: f(W @ h + s), inputs, state=h, **options)
        (gradient,) = torch.autograd.grad(flt.flossing_loss(spectrum.exponents), W)
        with torch.no_grad():
            again = flt.lyapunov_spectrum(lambda h, s, f=function: f(W @ h + s), inputs, state=h, **options)
        torch.testing.assert_close(again.log_growth, spectrum.log_growth.detach(), rtol=0, atol=1e-11)
        results.append((spectrum.log_growth.detach(), spectrum.state.detach(), gradient))
    assert [way.__name__ for way in taken[::2]] == ["_batched_jacobians", "_forward_mode", "_reverse_mode"]
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
    spectrum = flt.lyapunov_spectrum(lambda h, _: identity(W @ h), None, state=h, **options)
    logs = diagonal.abs().log()
    torch.testing.assert_close(spectrum.exponents.detach(), logs, rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.log_growth.detach(), (2 * logs).expand(3, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.transient_log_growth.detach(), 2 * logs[None], rtol=0, atol=1e-12)
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
    cell = fl.cells.BinaryRNN(8, 2, key=jax.random.key(1), gain=3.0, flossing_beta=1.0)
    bits = jax.random.bernoulli(jax.random.key(2), shape=(20, 2)).astype(float)
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (8, 3)))[0]

    def loss(J):
        step = eqx.tree_at(lambda c: c.J, cell, J)
        return jnp.square(
            fl.lyapunov_spectrum(lambda h, s: step(s, h), bits, state=cell.zeros(), basis=basis).exponents
        ).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(cell.J)
    J, ws, b, s, q = (torch.from_numpy(np.array(x)) for x in (cell.J, cell.ws, cell.b, bits, basis))
    J.requires_grad_()
    step = lambda h, s: Spike.apply(J @ h + b + ws @ s)  # noqa: E731
    ours = flt.lyapunov_spectrum(step, s, state=torch.zeros(8, **DOUBLE), basis=q).exponents.square().sum()
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
        exponents = flt.lyapunov_spectrum(step, inputs, state=(zero, zero), k=3, transient=0).exponents
        found.append((exponents.detach(), *torch.autograd.grad(exponents.square().sum(), W)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_a_state_is_any_tree_of_tensors():
    """z' = 0.5 e^i z turns its plane by 1 and shrinks it: both exponents are log 0.5; x' = 2 x beside it has log 2.
    The counter has no tangent."""

    def step(state, _):
        turn = torch.polar(torch.tensor(0.5, **DOUBLE), torch.tensor(1.0, **DOUBLE))
        return {"z": turn * state["z"], "x": (2 * state["x"][0],), "n": state["n"] + 1}

    start = {"z": torch.ones(1, dtype=torch.complex128), "x": (torch.ones(1, **DOUBLE),), "n": torch.tensor(0)}
    spectrum = flt.lyapunov_spectrum(step, None, state=start, steps=40, transient=20)
    expected = torch.tensor([np.log(2), np.log(0.5), np.log(0.5)], **DOUBLE)
    torch.testing.assert_close(spectrum.exponents, expected, rtol=0, atol=1e-10)
    assert spectrum.state["n"] == 40


def test_the_rule_of_the_qr_decomposition():
    """Its pullback is that of `torch.linalg.qr` with the signs made positive. A dependent column gives -inf, from there
    on, without gradient, and leaves the others theirs."""
    a = torch.randn(6, 4, **DOUBLE).requires_grad_()
    weights = torch.randn(6, 4, **DOUBLE), torch.randn(4, **DOUBLE)
    q, log_r = torch_qr.orthonormalise(a)
    p, r = torch.linalg.qr(a)
    p = p * r.diagonal().sign()
    for ours, theirs in zip((q, log_r), (p, r.diagonal().abs().log()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    ours = torch.autograd.grad((q * weights[0]).sum() + (log_r * weights[1]).sum(), a)
    theirs = torch.autograd.grad((p * weights[0]).sum() + (r.diagonal().abs().log() * weights[1]).sum(), a)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)

    b = torch.cat([a[:, :2], a[:, :1] - a[:, 1:2], a[:, 3:]], dim=1).detach().requires_grad_()
    q, log_r = torch_qr.orthonormalise(b)
    assert log_r.isneginf().tolist() == [False, False, True, True]
    torch.testing.assert_close(q.mT @ q, torch.eye(4, **DOUBLE), rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(log_r.sum(), b)
    assert (gradient[:, 2:] == 0).all()
    assert (gradient[:, :2] != 0).all()
    assert torch_qr.ROUNDING == _qr.ROUNDING


@pytest.mark.parametrize("singular", [False, True])
def test_products_of_jacobians_are_those_of_autograd(singular):
    """Written out, in both directions, they are what autograd makes of `jacobian @ q` and one QR decomposition after
    the other, where the last steps end no block and where a Jacobian is singular."""
    jacobians, q = torch.randn(7, 5, 5, **DOUBLE), torch.randn(5, 3, **DOUBLE)
    if singular:
        jacobians[3, :, 2:] = 0
    jacobians, q = jacobians.requires_grad_(), q.requires_grad_()
    weights = torch.randn(5, 3, **DOUBLE), torch.rand(3, 3, **DOUBLE)
    ends, last, growth = {1, 4, 5}, q, []
    for t in range(7):
        last = jacobians[t] @ last
        if t in ends:
            last, log_r = torch_qr.orthonormalise(last)
            growth.append(log_r)
    results = []
    for end, logs in (torch_qr.push(jacobians, q, ends), (last, torch.stack(growth))):
        assert logs.isneginf().any() == singular
        counted = torch.where(logs.isneginf(), 0, logs)
        gradients = torch.autograd.grad((end * weights[0]).sum() + (counted * weights[1]).sum(), (jacobians, q))
        results.append((end.detach(), logs.detach(), *gradients))
    for ours, autograds in zip(*results, strict=True):
        torch.testing.assert_close(ours, autograds, rtol=1e-10, atol=1e-11)


def test_gradients_of_an_orbit_are_those_of_autograd():
    """Of the state at its end, with respect to the first state, the inputs and the weights; more steps than are taken
    together, and a counter in the state."""
    W, start, inputs = (torch.randn(*shape, **DOUBLE).requires_grad_() for shape in ((4, 4), (4,), (70, 4)))

    def step(state, s):
        return torch.tanh(0.5 * W @ state[0] + s / (1 + state[1])), state[1] + 1

    zero = torch.tensor(0)
    spectrum = flt.lyapunov_spectrum(step, inputs, state=(start, zero), k=2, transient=0)
    state = start, zero
    for s in inputs:
        state = step(state, s)
    weights = torch.randn(4, **DOUBLE)
    ours, autograds = (torch.autograd.grad(x @ weights, (W, start, inputs)) for x in (spectrum.state[0], state[0]))
    torch.testing.assert_close(ours, autograds, rtol=1e-10, atol=1e-13)
    assert ours[2][0].abs().max() > 0


def test_a_step_written_in_torch_that_forgets_its_state_is_said():
    with pytest.warns(UserWarning, match="all exponents are -inf: step forgets its state"):
        flt.lyapunov_spectrum(lambda h, s: Spike.apply(s), torch.ones(5, 3), state=torch.zeros(3), transient=0)
