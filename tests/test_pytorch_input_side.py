"""Measures of the input side in torch: equal to those in JAX; gates and how they open."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence

import flossing as fl
import flossing.pytorch as flt

DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_step_has_the_measures_of_jax():
    lin, inputs = nn.Linear(8, 6, **DOUBLE), torch.randn(300, 2, **DOUBLE)
    W, b = lin.weight.detach().numpy(), lin.bias.detach().numpy()
    torch_step = lambda h, s: torch.tanh(lin(torch.cat([h, s])))  # noqa: E731
    jax_step = lambda h, s: jnp.tanh(W @ jnp.concatenate([h, s]) + b)  # noqa: E731
    ours = flt.reachability(torch_step, inputs[:40], state=torch.zeros(6, **DOUBLE))
    theirs = fl.reachability(jax_step, inputs[:40].numpy(), state=jnp.zeros(6))
    np.testing.assert_allclose(ours.log_singular_values, theirs.log_singular_values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.log_norms, theirs.log_norms, rtol=0, atol=1e-12)
    assert ours.dimension() == theirs.dimension()
    ours = flt.memory_function(torch_step, inputs, state=torch.zeros(6, **DOUBLE))
    theirs = fl.memory_function(jax_step, inputs.numpy(), state=jnp.zeros(6))
    np.testing.assert_allclose(ours.values, theirs.values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_modules_are_measured_as_their_own_steps(kind):
    """Two layers: the state after a sequence responds as torch's own derivative says; batches and single sequences."""
    module, inputs = kind(2, 4, num_layers=2, **DOUBLE), torch.randn(12, 2, **DOUBLE)

    def end(inputs):
        state = module(inputs)[1]
        return torch.cat([part.ravel() for part in state]) if isinstance(state, tuple) else state.ravel()

    found = flt.reachability(module, inputs)
    depth = len(found.log_norms)
    matrix = torch.autograd.functional.jacobian(end, inputs).flip(1)[:, :depth].reshape(-1, 2 * depth)
    expected = torch.linalg.svdvals(matrix).log()
    torch.testing.assert_close(found.log_singular_values, expected, rtol=0, atol=1e-6)  # of the SVD
    sequences = torch.randn(150, 3, 2, **DOUBLE)
    memory = flt.memory_function(module, sequences, delays=5)
    assert memory.values.shape == (5, 2) and 0.5 < memory.values[0].mean() <= 1.01


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM, nn.GRUCell, nn.LSTMCell])
def test_gates(make):
    """Open gates are open in every layer; the recurrent blocks are orthogonal and the input scale is the one given."""
    module = make(2, 50, **DOUBLE)
    assert flt.open_gates(module, recurrent="orthogonal", input_scale=0.1) is module
    gates = flt.gate_values(module, 0.1 * torch.randn(20, 2, **DOUBLE))
    layer = () if isinstance(module, nn.RNNCellBase) else (1,)
    expected = {"write": 0.95, "reset": 0.95} if "GRU" in make.__name__ else {"write": 0.95, "keep": 0.05, "show": 0.95}
    assert {name: pytest.approx(v.mean().item(), abs=0.02) for name, v in gates.items()} == expected
    assert all(v.shape == (20, *layer, 50) for v in gates.values())
    named = dict(module.named_parameters())
    suffix = "_l0" if layer else ""
    for block in named["weight_hh" + suffix].detach().split(50):
        torch.testing.assert_close(block @ block.T, torch.eye(50, **DOUBLE), rtol=0, atol=1e-10)
    assert named["weight_ih" + suffix][100:150].std().item() == pytest.approx(0.1, abs=0.02)


def test_an_opened_gru_is_that_of_jax():
    """The values of the gates are those of `fl.gate_values` for the same weights."""
    module, inputs = nn.GRU(2, 5, **DOUBLE), torch.randn(10, 2, **DOUBLE)
    cell = fl.cells.GRU(5, 2, key=jax.random.key(0)).cell
    w_ih, w_hh, b_ih, b_hh = (p.detach().numpy() for p in module.parameters())
    bias = np.concatenate([b_ih[:10] + b_hh[:10], b_ih[10:]])
    arrays = tuple(map(jnp.asarray, (w_ih, w_hh, bias, b_hh[10:])))
    cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), cell, arrays)
    ours, theirs = flt.gate_values(module, inputs), fl.gate_values(cell, inputs.numpy())
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name][:, 0].numpy(), values, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flt.gate_values(nn.RNN(2, 3), torch.ones(4, 2)), "model must be a GRU or an LSTM .* got RNN"),
        (lambda: flt.gate_values(nn.GRU(2, 3), torch.ones(4, 2, 2)), r"inputs must be a single sequence \(T, S\)"),
        (lambda: flt.open_gates(nn.GRU(2, 3, bias=False)), "module must have biases to open its gates"),
        (lambda: flt.open_gates(nn.GRU(2, 3), bias=0.0), "bias must be .*positive"),
        (lambda: flt.reachability(nn.GRU(2, 3), torch.ones(4, 2), delays=5), "delays must be .* got delays=5"),
        (lambda: flt.reachability(nn.GRU(2, 3), torch.ones(4, 2, 2)), "inputs must be a single sequence"),
        (lambda: flt.memory_function(nn.GRU(2, 3), torch.ones(400, 2)), "inputs must vary"),
        (
            lambda: flt.memory_function(nn.GRU(2, 3), pack_sequence([torch.randn(90, 2), torch.randn(50, 2)])),
            "inputs must be sequences of one length",
        ),
        (
            lambda: flt.open_gates(parametrizations.weight_norm(nn.GRU(2, 3), "weight_hh_l0"), recurrent="orthogonal"),
            "module must have its weights as parameters",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
