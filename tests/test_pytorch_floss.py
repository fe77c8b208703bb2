"""Flossing of torch modules: both engines agree with the JAX library; bad input raises one-line errors."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing._tangent.spread import block_spread_ratio
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

nn = torch.nn
flt = pytest.importorskip("flossing.pytorch")
from flossing.pytorch import _epoch, _jax_engine as _jax  # noqa: E402
from flossing.pytorch._reading import read_system  # noqa: E402
from flossing.pytorch._spread import spread_ratio  # noqa: E402


def small_rnn():
    torch.manual_seed(1)
    return nn.RNN(2, 5, **DOUBLE)


def numbers(history):
    return [history.loss, history.exponents, history.gradient_norm]


def test_three_steps_are_those_of_the_jax_library(optax_promotion):
    """The same network, sequence, basis and optimiser: history and parameters, by both engines, within 1e-10."""
    inputs, basis = torch.randn(12, 2, **DOUBLE), torch.randn(5, 3, **DOUBLE)
    options = {"epochs": 3, "basis": basis.numpy(), "target": np.asarray([0.0, -0.1, -0.2]), "window": 11}
    module = small_rnn()
    parameters, history = fl.floss(
        [jnp.asarray(p.detach().numpy()) for p in module.parameters()],
        inputs.numpy(),
        state=jnp.zeros(5),
        key=jax.random.key(0),
        step=lambda p, h, s: jnp.tanh(p[0] @ s + p[2] + p[1] @ h + p[3]),
        optimiser=optax.adam(1e-2),
        interval=2,
        loss=fl.losses.exponents,
        **options,
    )
    options["loss"] = flt.losses.exponents
    for engine in ("torch", "jax"):
        module = small_rnn()
        adam = functools.partial(torch.optim.Adam, lr=1e-2)
        ours = flt.floss(module, inputs, engine=engine, interval=2, optimiser=adam, **options)
        for mine, theirs in zip(numbers(ours), (history.loss, history.exponents, history.gradient_norm), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-10)
        for mine, theirs in zip(module.parameters(), parameters, strict=True):
            np.testing.assert_allclose(mine.detach(), theirs, rtol=0, atol=1e-10)
            assert mine.grad is None


def test_compiled_code_is_kept():
    """Other weights, other draws, another target, another interval: nothing is compiled again."""
    draw = functools.partial(torch.randn, 10, 2)
    compiled = _jax._jitted_loss_and_gradient()
    flt.floss(nn.GRU(2, 4), draw, k=2, epochs=2, interval=1, engine="jax")
    programs = compiled._cache_size()
    flt.floss(nn.GRU(2, 4), draw, k=2, epochs=3, interval=2, engine="jax", target=-0.1)
    assert compiled._cache_size() == programs
    flt.floss(nn.GRU(2, 4), draw, k=3, epochs=1, interval=1, engine="jax")
    assert compiled._cache_size() == programs + 1


def test_results_are_there_before_lapack_gets_its_threads_back(monkeypatch):
    """JAX returns before a computation is done: an epoch that does not wait would run on many threads."""
    run, results, ready = _jax._jitted_loss_and_gradient(), [], []

    def watched(*args):
        results.append(run(*args))
        return results[-1]

    @contextlib.contextmanager
    def limit():
        yield
        ready.extend(leaf.is_ready() for result in results for leaf in jax.tree.leaves(result))

    monkeypatch.setattr(_jax, "_jitted_loss_and_gradient", lambda: watched)
    monkeypatch.setattr(_jax, "one_lapack_thread", limit)
    flt.floss(nn.RNN(1, 60), torch.zeros(300, 1), k=40, epochs=2, engine="jax")
    assert ready
    assert all(ready)


def test_many_sequences_are_flossed_at_once():
    """The loss is the mean over the sequences, in both engines."""
    inputs = torch.randn(8, 3, 2, **DOUBLE)
    options = {"k": 2, "epochs": 2, "interval": 1, "transient": 1, "basis": torch.eye(5)[:, :2]}
    options["loss"] = flt.losses.exponents
    histories = [flt.floss(small_rnn(), inputs, engine=engine, **options) for engine in ("torch", "jax")]
    with torch.no_grad():
        basis = options["basis"]
        each = [flt.lyapunov_spectrum(small_rnn(), inputs[:, i], basis=basis, transient=1) for i in range(3)]
    losses = torch.stack([flt.flossing_loss(spectrum.exponents) for spectrum in each])
    torch.testing.assert_close(histories[0].loss[0], losses.mean(), rtol=0, atol=1e-12)
    assert histories[0].exponents.shape == (2, 3, 2)
    torch.testing.assert_close(numbers(histories[0]), numbers(histories[1]), rtol=0, atol=1e-10)


def test_exponents_come_to_the_target_and_the_interval_follows():
    """A linear map with exponents log 0.5 and log 0.7 is flossed to -0.1. After the first epoch, the interval is as
    long as the tolerance allows, up to the window."""
    module, seen = Linear(), []
    history = flt.floss(
        module,
        None,
        state=torch.ones(2, **DOUBLE),
        window=32,
        epochs=120,
        target=-0.1,
        optimiser=functools.partial(torch.optim.Adam, lr=1e-2),
        chunk=1,
        callback=lambda epoch, _, record: seen.append((epoch, int(record.interval[0]))),
    )
    torch.testing.assert_close(history.exponents[-1], torch.full((2,), -0.1, **DOUBLE), rtol=0, atol=2e-3)
    assert history.interval[0] == 1
    assert history.interval[1] > 1
    assert history.interval.max() <= 32
    assert seen == [(i + 1, m) for i, m in enumerate(history.interval.tolist())]
    assert module.W.grad is None
    assert module.W.requires_grad


class Linear(nn.Module):
    """A step as a module: `forward(state, input)`."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.diag(torch.tensor([0.7, 0.5], **DOUBLE)))

    def forward(self, _, h):
        return self.W @ h


def test_spread_ratios_are_those_of_the_jax_side():
    """For a batch, the worst sequence counts; infinite where a direction is lost."""
    growth = torch.randn(3, 9, 4, **DOUBLE)
    each = np.stack([block_spread_ratio(jnp.asarray(g.numpy()), 1e-6) for g in growth])
    np.testing.assert_allclose(spread_ratio(growth, 1e-6), each.max(0), rtol=1e-12)
    growth[1, 2, 3] = -torch.inf
    assert np.isposinf(spread_ratio(growth, None)).all()


def test_a_gradient_is_clipped_and_hooks_keep_theirs():
    """With plain gradient descent at rate 1, the weights move by the gradient norm passed to the optimiser."""
    module, gradients = small_rnn(), []
    module.weight_hh_l0.register_hook(gradients.append)
    before = [p.detach().clone() for p in module.parameters()]
    descent = functools.partial(torch.optim.SGD, lr=1.0)
    history = flt.floss(
        module, torch.randn(10, 2, **DOUBLE), k=3, epochs=1, optimiser=descent, clip=0.01, engine="torch"
    )
    norm = history.gradient_norm.item()
    moved = [a - p.detach() for a, p in zip(before, module.parameters(), strict=True)]
    assert norm > 0.02
    torch.testing.assert_close(torch.stack([m.norm() for m in moved]).norm().item(), 0.01, rtol=1e-9, atol=0)
    torch.testing.assert_close(moved[1], gradients[0] * (0.01 / norm), rtol=1e-9, atol=1e-15)


def test_an_optimiser_you_have_steps_what_it_holds():
    """Its moments and learning rate stay in use; parameters it does not hold, and frozen ones, do not change."""
    module = small_rnn()
    module.bias_hh_l0.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimiser = torch.optim.SGD([module.weight_hh_l0, module.bias_hh_l0], lr=0.1, momentum=0.9)
    gradients = []
    module.weight_hh_l0.register_hook(gradients.append)
    inputs = torch.randn(10, 2, **DOUBLE)
    with torch.no_grad():
        history = flt.floss(module, inputs, k=2, epochs=2, optimiser=optimiser, clip=None, engine="torch")
    assert history.state.optimiser is optimiser
    assert len(gradients) == 2
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"weight_hh_l0"}
    step = before["weight_hh_l0"] - 0.1 * (1.9 * gradients[0] + gradients[1])
    torch.testing.assert_close(module.weight_hh_l0.detach(), step, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_an_infinite_exponent_names_its_epoch_and_changes_nothing(engine):
    """After the first epoch W_hh is set to 0, so that all exponents of the second are -inf."""
    module = small_rnn()

    def destroy(epoch, model, record):
        with torch.no_grad():
            module.weight_hh_l0.zero_()

    with pytest.raises(FloatingPointError, match=r"flossing epoch 2: .* finite, got exponents\[0\]=-inf"):
        flt.floss(module, torch.randn(10, 2, **DOUBLE), k=2, engine=engine, interval=1, chunk=1, callback=destroy)
    assert (module.weight_hh_l0 == 0).all()


INPUTS = torch.ones(6, 2)
NAN = torch.tensor([[0.0, torch.nan]])


def measure(module, state=None, inputs=INPUTS, **options):
    return flt.lyapunov_spectrum(module, inputs, state=state, **options)


def identity(h, s):
    return h


H = torch.zeros(3)
CASES = [
    (lambda: measure(nn.GRU(2, 3, bidirectional=True)), "got bidirectional=True: its state at a step depends on later"),
    (lambda: measure(nn.LSTM(2, 3, proj_size=2)), "module must have proj_size=0, got proj_size=2"),
    (lambda: measure(nn.GRU(2, 3, 2, dropout=0.5)), "got dropout=0.5 in training mode: call module.eval"),
    (lambda: measure(Overriding(2, 3)), "module must keep the forward of nn.RNN, got Overriding with its own"),
    (lambda: measure(nn.RNN(2, 3, dtype=torch.float16)), "weights of float32 or float64, got torch.float16"),
    (lambda: measure(nn.RNN(2, 3), inputs=INPUTS.to("meta")), "inputs must be torch.float32 on cpu .* on meta"),
    (
        lambda: measure(nn.RNN(2, 3, **DOUBLE)),
        "inputs must be torch.float64 on cpu as .* got torch.float32",
    ),
    (lambda: measure(nn.RNN(2, 3), inputs=torch.ones(6, 3)), r"shape \(T, 2\) or \(T, B, 2\) .* got float32\[6,3\]"),
    (lambda: measure(nn.RNN(2, 3), inputs=None), r"inputs must be a tensor of shape .* got None"),
    (lambda: measure(nn.RNN(2, 3), inputs=INPUTS[:0]), r"inputs must be a tensor of shape .* got float32\[0,2\]"),
    (lambda: measure(nn.RNN(2, 3), inputs=NAN), r"inputs must be finite, got nan at index \(0, 1\)"),
    (lambda: measure(nn.RNN(2, 3), H), r"state must be like float32\[1,3\] .* got float32\[3\]"),
    (lambda: measure(nn.LSTM(2, 3), H[None]), r"state must be like \(float32\[1,3\], float32\[1,3\]\)"),
    (lambda: measure(nn.RNN(2, 3), H[None] * torch.nan), r"state must be finite, got nan at index \(0, 0\)"),
    (lambda: measure(broken()), r"module\['weight_hh_l0'\] must be finite, got inf at index \(0, 0\)"),
    (lambda: measure(nn.RNN(2, 3), k=4), r"k must be an integer from 1 to 3 \(the state has 3 real coordinates\)"),
    (lambda: measure(nn.RNN(2, 3), steps=7), "steps must be an integer from 1 to 6 .*, got steps=7"),
    (lambda: measure(nn.RNN(2, 3), transient=6), r"transient must be an integer from 0 to 5 \(the run has 6 steps\)"),
    (lambda: measure(nn.RNN(2, 3), interval=0), "interval must be an integer of at least 1 or 'auto', got interval=0"),
    (
        lambda: read_system(identity, INPUTS, state=H, engine="cuda"),
        "must be .* or 'torch', got engine='cuda'",
    ),
    (lambda: measure(nn.RNN(2, 3), basis=torch.ones(3, 2)), "linearly independent columns, got column 1 dependent"),
    (lambda: measure(nn.RNN(2, 3), basis=torch.eye(2)), r"basis must have shape \(3, k\) with k = 1 to 3 .* \(2, 2\)"),
    (lambda: measure(nn.RNN(2, 3)).std(), "std is taken over sequences, and this spectrum is of one"),
    (lambda: measure(nn.Linear(2, 3)), "state must be given for all but .* got None for Linear"),
    (lambda: measure("GRU", H), "model must be a recurrent module, .* got 'GRU'"),
    (
        lambda: measure(identity, H, engine="jax"),
        "must be 'auto' or 'torch' for a step .* got 'jax' for identity",
    ),
    (lambda: measure(identity, H, None), r"steps must be given for an autonomous system \(inputs=None\)"),
    (lambda: measure(identity, [0.0]), r"state\[0\] must be a tensor, got 0.0 of type float"),
    (lambda: measure(identity, H.int()), r"state must have floating leaves of float32, or of float64, got int32\[3\]"),
    (lambda: measure(identity, (H, H.double())), r"floating leaves .* got \(float32\[3\], float64\[3\]\)"),
    (lambda: measure(identity, H, (INPUTS, H)), r"one leading time axis .* \(float32\[6,2\], float32\[3\]\)"),
    (lambda: measure(lambda h, s: h[:2], H), r"step must return a state like .* float32\[3\], got float32\[2\]"),
    (
        lambda: measure(lambda h, s: h + s, H),
        r"step must accept a state like .* float32\[2\], got The size",
    ),
    (
        lambda: measure(lambda h, s: h**3 + 9e9, H + 1),
        "step must keep .* finite, got NaN or infinity in block 0 after the transient",
    ),
    (lambda: measure(lambda h, s: 1e30 * (h + 1), H), r"the last state must be finite, got inf"),
    (lambda: flt.flossing_loss(H, [0.0, 1.0]), r"target must be a scalar or have shape \(3,\) .* got shape \(2,\)"),
    (lambda: flt.flossing_loss(H.log()), r"exponents must be finite, got exponents\[0\]=-inf"),
    (lambda: flt.floss(nn.RNN(2, 3), INPUTS, epochs=0), "epochs must be an integer of at least 1, got epochs=0"),
    (
        lambda: flt.floss(nn.RNN(2, 3), INPUTS, window=7),
        r"window must be an integer from 1 to 6 \(inputs have 6",
    ),
    (lambda: flt.floss(nn.RNN(2, 3), INPUTS, interval=0), "interval must be an integer of at least 1 or 'auto'"),
    (
        lambda: flt.floss(nn.RNN(2, 3), INPUTS, tolerance=-1.0),
        "must be a positive number, got tolerance=-1.0",
    ),
    (lambda: flt.floss(nn.RNN(2, 3), INPUTS, clip=0.0), "clip must be a positive number, got clip=0.0"),
    (
        lambda: flt.floss(nn.RNN(2, 3), INPUTS, transient=6),
        r"transient must be an integer from 0 to 5 \(the window has 6 steps\)",
    ),
    (lambda: flt.floss(nn.RNN(2, 3), INPUTS, parameters=[]), "parameters must include one that requires a gradient"),
    (lambda: flt.floss(identity, INPUTS, state=H), "parameters must be given for a step that is a function"),
    (lambda: flt.floss(identity, INPUTS, state=H, parameters=[nn.Parameter(H)]), "parameters must enter the step"),
    (lambda: flt.floss(nn.RNN(2, 3), shorter(), engine="torch"), "inputs must have the 6 steps of the window .* got 5"),
]


class Overriding(nn.RNN):
    def forward(self, x):
        return super().forward(x)[0]


def broken():
    module = nn.RNN(2, 3)
    with torch.no_grad():
        module.weight_hh_l0[0, 0] = torch.inf
    return module


def shorter():
    draws = iter((INPUTS, INPUTS[:5]))
    return lambda: next(draws)


@pytest.mark.parametrize(("call", "message"), CASES)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e19, 1e38])
def test_norms_of_gradients_of_any_size(size):
    gradients = [torch.full((2,), size, dtype=torch.float32), torch.full((2, 1), size, dtype=torch.float32)]
    assert _epoch._norm(gradients) == pytest.approx(2 * size, rel=1e-6)


def test_gradients_that_are_not_finite_or_nothing():
    assert _epoch._norm([]) == _epoch._norm([torch.zeros(3)]) == 0
    assert _epoch._norm([torch.tensor([1.0, torch.inf])]) == np.inf
    assert np.isnan(_epoch._norm([torch.tensor([1.0, torch.nan])]))


def test_a_target_that_is_not_finite():
    with pytest.raises(ValueError, match="target must be finite, got nan"):
        flt.floss(torch.nn.RNN(1, 4), torch.ones(20, 1), epochs=1, target=np.nan)
