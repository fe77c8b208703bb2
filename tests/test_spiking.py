"""Spikes are exact; their surrogate derivative is differentiable, and flossing can use it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing.cells import LIF, BinaryRNN, Network, Stacked, spike, with_task_surrogate
from tests.test_cells import EXACT, INPUTS, KEY, replaced, spectrum

V = np.array([-3.0, -0.4, -1e-9, 0.0, 1e-9, 0.7, 5.0])


def surrogate(v, beta):
    return 1 / (beta * np.abs(v) + 1) ** 2


@pytest.mark.parametrize("beta", [0.3, 10.0])
def test_spike_and_its_two_derivatives(beta):
    """H(v); 1/(beta|v| + 1)^2; and of that the derivative, -2 beta sign(v) / (beta|v| + 1)^3, but at its kink."""
    v, away = jnp.asarray(V), V[V != 0]
    first = jax.jit(jax.vmap(jax.grad(lambda v: spike(v, beta))))
    second = jax.jit(jax.vmap(jax.grad(jax.jacfwd(lambda v: spike(v, beta)))))
    np.testing.assert_array_equal(spike(v, beta), V > 0)
    np.testing.assert_allclose(first(v), surrogate(V, beta), **EXACT)
    expected = -2 * beta * np.sign(away) / (beta * np.abs(away) + 1) ** 3
    np.testing.assert_allclose(second(jnp.asarray(away)), expected, **EXACT)


def binary_orbit(cell, inputs):
    """v_t and z_t of a binary network in NumPy, (T, N) each, from z = 0."""
    J, ws, b = (np.asarray(x) for x in (cell.J, cell.ws, cell.b))
    z, vs, zs = np.zeros(len(b)), [], []
    for s in inputs:
        vs.append(J @ z + b + ws @ s - cell.threshold)
        z = (vs[-1] > 0).astype(float)
        zs.append(z)
    return np.stack(vs), np.stack(zs)


def test_tangents_of_a_binary_network():
    """D = diag(surrogate(v - threshold)) J along the orbit of exact spikes, in plain NumPy."""
    cell = BinaryRNN(6, 3, key=KEY, threshold=0.2, flossing_beta=0.7)
    vs, zs = binary_orbit(cell, INPUTS)
    q, total = np.eye(6), 0.0
    for v in vs:
        q, r = np.linalg.qr(surrogate(v, 0.7)[:, None] * np.asarray(cell.J) @ q)
        total = total + np.log(np.abs(np.diag(r)))
    ours = spectrum(cell, INPUTS, basis=np.eye(6))
    assert 0 < zs.mean() < 1
    np.testing.assert_array_equal(ours.state, zs[-1])
    np.testing.assert_allclose(ours.exponents, total / len(INPUTS), **EXACT)


@pytest.mark.parametrize("bias", [0.5, 1.5])
@pytest.mark.parametrize("reset_in_tangent", [False, True])
def test_neurons_without_recurrent_weights(bias, reset_in_tangent):
    """D = [[kappa, (1 - kappa) alpha], [0, alpha]] in blocks of v and i: log kappa and log alpha, N times each.

    It does not matter then whether neurons spike, if the reset is left out; with it, kappa - surrogate(v_t - 1) takes
    the place of kappa. log kappa = -dt / tau_mem, log alpha = -dt / tau_syn.
    """
    cell = LIF(2, key=KEY, gain=0.0, dt=0.5, reset_in_tangent=reset_in_tangent, flossing_beta=2.0)
    cell = replaced(cell, b=np.full(2, bias))
    kappa, v, vs = np.exp(-0.05), 0.0, []
    for _ in range(100):
        vs.append(v)
        v = kappa * v + (1 - kappa) * bias - (v > 1)
    ours = spectrum(cell, np.zeros((100, 1)), basis=np.eye(4))
    assert (max(vs) > 1) == (bias > 1)
    slope = np.log(np.abs(kappa - reset_in_tangent * surrogate(np.array(vs) - 1, 2.0))).mean()
    np.testing.assert_allclose(ours.exponents, [slope, slope, -0.1, -0.1], **EXACT)
    np.testing.assert_allclose(ours.state[0], v, **EXACT)


def test_a_spike_reaches_the_others_by_their_current():
    """A neuron far above threshold spikes: the other's current jumps by J_10 and its voltage by (1 - kappa) J_10."""
    cell = replaced(LIF(2, key=KEY), J=[[0.0, 0.0], [3.0, 0.0]], b=np.zeros(2))
    kappa = np.exp(-0.1)
    v, i = cell(jnp.zeros(1), (jnp.array([5.0, 0.0]), jnp.zeros(2)))
    np.testing.assert_allclose(v, [5 * kappa - 1, (1 - kappa) * 3], **EXACT)
    np.testing.assert_allclose(i, [0, 3], **EXACT)


def test_a_task_sees_another_sharpness_and_the_same_spikes():
    """One step of a readout W of z' = H(v): its derivative in z is W diag(surrogate(v, beta)) J, that of the step
    diag(surrogate(v, flossing_beta)) J."""
    cell = BinaryRNN(5, 3, key=KEY, beta=4.0, flossing_beta=0.5)
    network = Network(cell, 2, key=KEY)
    z, s = jnp.array([1.0, 0, 0, 1, 1]), jnp.asarray(INPUTS[:1])
    v = np.asarray(cell.J @ z + cell.b + cell.ws @ s[0])
    slope = {beta: surrogate(v, beta)[:, None] * np.asarray(cell.J) for beta in (4.0, 0.5)}
    of_task = jax.jit(jax.jacrev(lambda z: network.outputs(s, z)[0]))(z)
    np.testing.assert_allclose(of_task, network.readout.weight @ slope[4.0], **EXACT)
    np.testing.assert_allclose(jax.jit(jax.jacrev(lambda z: network(s[0], z)))(z), slope[0.5], **EXACT)


def test_the_sharpness_changes_in_every_layer():
    layers = Stacked([LIF(4, 3, key=KEY, bias_mean=1.5), BinaryRNN(3, 4, key=KEY)])
    twin = with_task_surrogate(layers)
    assert [cell.flossing_beta for cell in twin.cells] == [cell.beta for cell in layers.cells] == [10.0, 10.0]  # pyright: ignore[reportAttributeAccessIssue]
    assert [cell.flossing_beta for cell in layers.cells] == [1.0, 0.3]  # pyright: ignore[reportAttributeAccessIssue]

    def total(cells, inputs):
        def body(state, s):
            state = cells(s, state)
            return state, cells.output(state)

        return jax.lax.scan(body, cells.zeros(), inputs)[1]

    inputs = jnp.asarray(INPUTS)
    ours, theirs = total(layers, inputs), total(twin, inputs)
    assert 0 < ours.mean() < 1
    np.testing.assert_array_equal(ours, theirs)
    gradients = [jax.jit(jax.grad(lambda s, c=c: total(c, s).sum()))(inputs) for c in (layers, twin)]
    assert np.abs(gradients[0] - gradients[1]).max() > 1e-3


def draw_bits(key):
    return jax.random.bernoulli(key, shape=(1000, 1)).astype(float)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("k", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (16, 32))])
def test_flossing_a_binary_network(k):
    """80 units, fresh bits in every epoch: lambda_1 ends within 0.06 of 0 along other bits, and so do the first k on
    average; the network spikes exactly all the while."""
    cell = BinaryRNN(80, key=jax.random.key(0))
    bits = draw_bits(jax.random.key(77))
    exact = []

    def look(_, model, __):
        step = functools.partial(jax.lax.scan, lambda z, s: (model(s, z),) * 2, model.zeros())
        exact.append(np.array_equal(step(bits[:100])[1], binary_orbit(model, np.asarray(bits[:100]))[1]))

    options = {"k": k, "window": 100, "epochs": 300, "chunk": 100, "callback": look}
    options |= {"loss": fl.losses.exponents, "optimiser": optax.adam(1e-3)}
    flossed, history = fl.floss(cell, draw_bits, state=cell.zeros(), key=KEY, **options)
    exponents = np.asarray(spectrum(flossed, bits, k=k, transient=100).exponents)
    assert history.exponents[0, 0] < -0.2
    assert abs(exponents[0]) < 0.06
    assert np.abs(exponents).mean() < 0.06
    assert exact == [True] * 3
