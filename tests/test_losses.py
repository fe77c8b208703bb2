"""Losses of flossing: what they measure, their gradients, and that JAX and PyTorch agree."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

import flossing as fl
import flossing.pytorch as flt
from flossing.losses import KeepAndWrite, Memory, memory_shares
from flossing.pytorch.losses import Memory as TorchMemory, memory_shares as torch_shares

pytestmark = pytest.mark.usefixtures("optax_promotion")
N = 6
SHIFT, FIRST = jnp.eye(N, k=-1), jnp.eye(N)[:, :1]
INPUTS = jax.random.normal(jax.random.key(0), (200, 1))


def delay_line(w, h, s):
    return w @ h + FIRST @ s


def measured(w, inputs=INPUTS, *, k=N, step=delay_line, state=None, **options):
    """What an epoch hands to its loss, through a loss that keeps it."""
    found = {}

    def loss(measured):
        found["measured"] = measured
        return jnp.sum(measured.exponents)

    start = jnp.zeros(N) if state is None else state
    flossing = fl.Flossing(w, inputs, state=start, k=k, step=step, loss=loss, **options)
    key = jax.random.key(1)
    flossing._loss(w, eqx.filter_jit(flossing.exponents)(w, key), key)
    return found["measured"]


@eqx.filter_jit
def value(loss, measured):
    """A loss of what was measured, as one program."""
    return loss(measured)


def test_a_delay_line_holds_as_many_inputs_as_units():
    """With little noise the last N inputs are read without error, though all exponents are -inf; a shift that loses
    half of the line loses half of them."""
    for kept in (N, N // 2):
        line = jnp.eye(N, k=-1).at[kept:].set(0) if kept < N else SHIFT
        loss = value(Memory(noise=1e-4, samples=200), measured(line))
        assert float(loss) == pytest.approx(1 - kept / N, abs=0.01)


def test_an_integrator_holds_one_number():
    """h' = a h + s: M_d = (1 - a^2) a^(2 d) without noise, so L_write = 1 - sum_d M_d / D."""
    a, k = 0.8, 5
    found = measured(jnp.asarray(a), step=lambda a, h, s: a * h + jnp.ones((k, 1)) @ s, k=k, state=jnp.zeros(k))
    loss = value(Memory(noise=1e-5, samples=2000), found)
    assert float(loss) == pytest.approx(1 - sum((1 - a * a) * a ** (2 * d) for d in range(k)) / k, abs=0.01)


def test_closed_gates_satisfy_the_exponents_alone():
    """A GRU that writes nothing has exponents near 0 and no memory; with its gates open it has both sides to lose."""
    cell = fl.cells.GRU(8, key=jax.random.key(0)).cell
    closed = eqx.tree_at(lambda cell: cell.bias, cell, cell.bias.at[8:16].set(20.0))
    found = measured(closed, step=lambda cell, h, s: cell(s, h), k=4, state=jnp.zeros(8))
    assert float(fl.losses.exponents(found)) < 1e-6
    assert float(value(Memory(), found)) > 0.99


def test_probes_are_white_and_fresh():
    """Every step of a probe is a step of the inputs, drawn anew by each key; states follow from them."""
    inputs = jnp.cumsum(INPUTS[:50], axis=0)
    found = measured(SHIFT, inputs, window=40)
    probes = eqx.filter_jit(lambda found: found.probes(500))
    drawn, states = probes(found)
    assert drawn.shape == (500, 40, 1) and states.shape == (500, 40, N)
    assert np.isin(np.asarray(drawn), np.asarray(inputs[:40])).all()
    neighbours = np.corrcoef(np.asarray(drawn)[:, 1:, 0].ravel(), np.asarray(drawn)[:, :-1, 0].ravel())[0, 1]
    assert abs(neighbours) < 0.03
    np.testing.assert_allclose(states[:, 10, 3], drawn[:, 7, 0], atol=1e-12)
    assert (probes(dataclasses.replace(found, key=jax.random.key(5)))[0] != drawn).any()
    np.testing.assert_allclose(eqx.filter_jit(lambda found: found.states())(found)[:, 0], inputs[:40, 0], atol=1e-12)


def test_probes_of_a_padded_batch_never_use_the_padding():
    inputs = jnp.stack([jnp.ones((30, 1)), jnp.ones((30, 1))]).at[1, 20:].set(jnp.nan)
    with jax.debug_nans(False):
        found = measured(SHIFT, jnp.nan_to_num(inputs, nan=99.0), lengths=[30, 20], batched=True, k=2)
    assert float(eqx.filter_jit(lambda found: jnp.max(found.probes(200)[0]))(found)) == 1.0


def test_the_gradient_is_that_of_the_values():
    """Central differences of the loss, all weights moved together."""
    w = fl.cells.VanillaRNN(N, key=jax.random.key(1))
    for loss in (Memory(), KeepAndWrite(weight=0.5)):
        flossing = fl.Flossing(w, INPUTS[:60], k=4, loss=loss, interval=1)
        key = jax.random.key(2)
        run = eqx.filter_jit(flossing.loss)
        gradient = eqx.filter_jit(eqx.filter_grad(flossing.loss))(w, key)
        slope = sum(float(leaf.sum()) for leaf in jax.tree.leaves(gradient))

        def along(eps, run=run, key=key):
            return float(run(jax.tree.map(lambda x: x + eps, w), key))

        assert slope == pytest.approx((along(1e-5) - along(-1e-5)) / 2e-5, rel=1e-6)


def test_the_default_is_both_and_systems_without_inputs_have_no_memory():
    cell, key = fl.cells.GRU(8, key=jax.random.key(1)), jax.random.key(3)
    both, keep, write = (
        float(eqx.filter_jit(fl.Flossing(cell, INPUTS, k=3, loss=loss).loss)(cell, key))
        for loss in (None, fl.losses.exponents, Memory())
    )
    assert both == pytest.approx(0.1 * keep + write)
    assert 0 < write < 1
    w = 0.5 * jnp.eye(3)
    alone = fl.Flossing(w, None, state=jnp.ones(3), window=9, step=lambda w, h, s: jnp.tanh(w @ h))
    keep = jnp.mean(eqx.filter_jit(alone.exponents)(w, key) ** 2)
    assert float(eqx.filter_jit(alone.loss)(w, key)) == pytest.approx(0.1 * float(keep))


def test_memory_alone_needs_inputs():
    """Of tokens there is nothing to remember: the loss would be constant."""
    message = "loss must have inputs to remember, got inputs without floating numbers"
    table = jnp.eye(3)[:, :2]
    with pytest.raises(ValueError, match=message):
        fl.floss(table, jnp.arange(30) % 3, state=jnp.zeros(2), step=lambda t, h, s: jnp.tanh(h + t[s]), loss=Memory())
    weight = torch.eye(2, dtype=torch.float64, requires_grad=True)
    start = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        flt.floss(lambda h, _: weight @ h, None, state=start, parameters=[weight], window=9, loss=TorchMemory())


def test_noise_differs_between_probes():
    """Noise from a key in the state: were it one realisation for all probes, a readout could cancel it."""

    def step(w, state, s):
        h, key = state
        key, now = jax.random.split(key)
        return jnp.tanh(w @ h + FIRST @ s) + 0.5 * jax.random.normal(now, h.shape), key

    flossing = fl.Flossing(0.1 * SHIFT, INPUTS, state=(jnp.zeros(N), jax.random.key(0)), k=2, window=20, step=step,
                           loss=lambda m: jnp.var(m.probes(50)[1][:, -1, 3]))  # fmt: skip
    assert float(eqx.filter_jit(flossing.loss)(0.1 * SHIFT, jax.random.key(1))) > 0.1


def test_a_subclass_is_what_it_computes():
    """A loss derived from ours is called in both engines of torch, and not taken for ours."""

    @dataclasses.dataclass(frozen=True)
    class Mine(flt.losses.KeepAndWrite):
        def __call__(self, measured):
            return 1000 * measured.exponents.square().sum()

    torch.manual_seed(0)
    inputs, losses = torch.randn(30, 2, dtype=torch.float64), []
    for engine in ("jax", "torch"):
        torch.manual_seed(1)
        module = nn.GRU(2, 4, dtype=torch.float64)
        losses.append(flt.floss(module, inputs, k=2, epochs=1, loss=Mine(), engine=engine, report=False).loss)
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
    assert losses[0] > 10


def test_a_state_of_lower_precision_than_its_inputs():
    weight = torch.eye(3).requires_grad_()
    history = flt.floss(
        lambda h, s: torch.tanh(weight @ h + s.float()),
        torch.randn(30, 3, dtype=torch.float64),
        state=torch.zeros(3),
        parameters=[weight],
        k=2,
        epochs=1,
        report=False,
    )
    assert history.loss.isfinite().all()


@pytest.mark.parametrize("loss", [fl.losses.Memory, fl.flossing_loss, flt.losses.exponents])
def test_what_is_no_loss_in_jax(loss):
    with pytest.raises(ValueError, match=r"loss must be a function of what an epoch measures, such as flossing.losses"):
        fl.floss(fl.cells.VanillaRNN(4, key=jax.random.key(0)), INPUTS, k=2, loss=loss)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (flt.losses.Memory, "loss must be a function of what an epoch measures, such as flossing.pytorch.losses"),
        (fl.losses.exponents, "got one of flossing.losses"),
        (flt.flossing_loss, "got flossing_loss, which takes exponents: pass flossing.pytorch.losses.exponents"),
        (lambda measured: torch.tensor(1.0), "loss must depend on the flossed parameters"),
        (lambda measured: measured.exponents, "loss must return a scalar tensor"),
    ],
)
def test_what_is_no_loss_in_torch(loss, message):
    with pytest.raises(ValueError, match=message):
        flt.floss(nn.GRU(2, 4), torch.ones(30, 2), k=2, loss=loss, report=False)


def test_a_loss_of_ones_own():
    cell = fl.cells.VanillaRNN(8, key=jax.random.key(1))
    _, history = fl.floss(cell, INPUTS, k=3, epochs=30, loss=lambda m: jnp.mean(jnp.square(m.states())), report=False)
    assert history.loss[-1] < history.loss[0]
    with pytest.raises(ValueError, match="loss must return a scalar, got float64\\[3\\]"):
        fl.floss(cell, INPUTS, k=3, loss=lambda m: m.exponents)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Memory(noise=0.0), "noise must be .*positive.*, got noise=0.0"),
        (lambda: Memory(samples=0), "samples must be .* got samples=0"),
        (lambda: KeepAndWrite(weight=-1.0), "weight must be .*positive.*, got weight=-1.0"),
        (lambda: TorchMemory(noise=0.0), "noise must be .*positive.*, got noise=0.0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_shares_are_the_same_in_torch():
    rng = np.random.default_rng(0)
    inputs, states = rng.normal(size=(3, 40, 2)), rng.normal(size=(3, 40, 5))
    ours = jax.jit(memory_shares, static_argnums=(2, 3, 4))(jnp.asarray(inputs), jnp.asarray(states), 4, 7, 0.1)
    theirs = torch_shares(torch.from_numpy(inputs), torch.from_numpy(states), 4, 7, 0.1)
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("shape", [(40, 2), (40, 3, 2)])
def test_both_engines_of_torch_agree(kind, shape):
    """Three epochs of the default loss, along one sequence and along three: losses and weights."""
    torch.manual_seed(0)
    inputs, start = torch.randn(shape, dtype=torch.float64), kind(2, 6, num_layers=2, dtype=torch.float64)
    found = {}
    for engine in ("jax", "torch"):
        module = kind(2, 6, num_layers=2, dtype=torch.float64)
        module.load_state_dict(start.state_dict())
        options = {"k": 5, "epochs": 3, "interval": 1, "engine": engine, "report": False}
        losses = flt.floss(module, inputs, **options).loss
        found[engine] = losses, torch.cat([p.detach().ravel() for p in module.parameters()])
    torch.testing.assert_close(found["jax"], found["torch"], rtol=0, atol=1e-9)


def test_a_step_of_ones_own_in_torch_has_a_memory():
    """A delay line in torch: the loss is that of JAX, up to the draw of the probes."""
    shift = torch.eye(N, dtype=torch.float64).roll(1, 0)
    shift[0, -1] = 0
    weight = (0.9 * shift).requires_grad_()
    first = torch.eye(N, dtype=torch.float64)[:, :1]
    inputs = torch.from_numpy(np.array(INPUTS))
    history = flt.floss(
        lambda h, s: weight @ h + 0.01 * h + first @ s,
        inputs,
        state=torch.zeros(N, dtype=torch.float64),
        parameters=[weight],
        k=N,
        epochs=1,
        loss=flt.losses.Memory(noise=1e-3, samples=100),
        report=False,
    )
    found = measured(0.9 * SHIFT, step=lambda w, h, s: w @ h + 0.01 * h + FIRST @ s)
    assert float(history.loss[0]) == pytest.approx(float(value(Memory(noise=1e-3, samples=100), found)), abs=0.01)


def test_adam_needs_no_optimiser():
    """The default learning rate is the same in both ecosystems."""
    cell = fl.cells.VanillaRNN(4, key=jax.random.key(1))
    ours, _ = fl.floss(cell, INPUTS, k=2, epochs=1, report=False)
    same, _ = fl.floss(cell, INPUTS, k=2, epochs=1, optimiser=optax.adam(3e-3), report=False)
    np.testing.assert_array_equal(ours.J, same.J)
