"""`Flosser` in a JAX loop of one's own, and the measure that decides when to floss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing.schedules import preflossing
from tests.helpers import OwnSchedule

pytestmark = pytest.mark.usefixtures("optax_promotion")

QUICK = {"preflossing": 2, "epochs": 1, "every": 2, "k": 3, "window": 8, "report": False}
INPUTS = jax.random.normal(jax.random.key(9), (4, 10, 2))


def gru(key=0):
    return eqx.nn.GRUCell(2, 6, key=jax.random.key(key))


def run(flosser, cell, state, steps, inputs=INPUTS):
    done = []
    for _ in range(steps):
        before = state.epochs
        cell, state = flosser.update(cell, state, inputs)
        done.append(state.epochs - before)
    return cell, state, done


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(eqx.filter(tree, eqx.is_array))]


def assert_equal(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("a", [0.5, 0.9, 1.1])
def test_reach_of_a_linear_map(a):
    """h -> a h from h = 1: dL/dh_0 = sum g_t a^t, dL/da = sum t g_t a^(t-1), over t > T/2; averaged over g."""
    T, B = 20, 4000
    found = fl.gradient_reach(
        jnp.asarray(a), jnp.zeros((B, T)), step=lambda a, h, s: a * h + s, state=jnp.ones(1), batched=True
    )
    t = np.arange(T // 2 + 1, T + 1)
    expected = np.sqrt((a ** (2.0 * t)).sum() / (t**2 * a ** (2.0 * t - 2)).sum())
    assert float(found) == pytest.approx(expected, rel=0.03)


def test_reach_of_one_sequence_and_of_a_batch():
    """Plain reverse mode through a loop, with the same random loss."""
    W = jax.random.normal(jax.random.key(1), (6, 6)) / 2
    inputs, start, key = jax.random.normal(jax.random.key(2), (7, 6)), jnp.linspace(0, 1, 6), jax.random.key(3)
    noise = jax.random.normal(key, (4, 6))

    def loss(W, h):
        total = 0.0
        for t, s in enumerate(inputs):
            h = jnp.tanh(W @ h + s)
            total += noise[t - 3] @ h if t >= 3 else 0.0
        return total

    local, distant = jax.jit(jax.grad(loss, (0, 1)))(W, start)
    step = lambda W, h, s: jnp.tanh(W @ h + s)  # noqa: E731
    found = fl.gradient_reach(W, inputs, step=step, state=start, key=key)
    np.testing.assert_allclose(found, jnp.linalg.norm(distant) / jnp.linalg.norm(local), rtol=1e-12)
    closed = fl.gradient_reach(lambda h, s: jnp.tanh(W @ h + s), inputs, state=start, key=key)
    np.testing.assert_allclose(closed, found, rtol=1e-12)
    sequences = jnp.stack([inputs, inputs[::-1]])
    many = fl.gradient_reach(W, sequences, step=step, state=start, key=key, batched=True)
    assert many.shape == () and many.dtype == jnp.float64 and many > 0


def test_reach_of_gradients_whose_squares_overflow():
    """h -> 4 h from ones, for 60 steps in float32: dL/dh_0 = sum g_t 4^t and dL/da = sum g_t . 1 t 4^(t-1), 1e36."""
    ones, rate = jnp.ones(3, jnp.float32), jnp.asarray(4, jnp.float32)
    found = fl.gradient_reach(rate, None, step=lambda a, h, s: a * h, state=ones, steps=60)
    g, t = np.asarray(jax.random.normal(jax.random.key(0), (30, 3), jnp.float32), float), np.arange(31, 61)
    expected = np.linalg.norm(4.0**t @ g) / abs((t * 4.0 ** (t - 1)) @ g.sum(1))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_reach_when_gradients_vanish_or_overflow():
    def sums(a, h, s):
        return a * h + s

    options = {"step": sums, "state": jnp.ones(1)}
    assert fl.gradient_reach(jnp.asarray(1e-30), jnp.ones(100), **options) == 0
    assert not np.isfinite(fl.gradient_reach(jnp.asarray(1e10), jnp.zeros(100), **options))
    with pytest.raises(ValueError, match="inputs must have at least two steps"):
        fl.gradient_reach(jnp.asarray(1.0), jnp.zeros(1), **options)


def test_flosses_while_gradients_do_not_reach_back():
    for radius, expected in ((0.01, [2, 0, 1, 0, 1]), (1.0, [2, 0, 0, 0, 0])):
        Q = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (6, 6)))[0]
        cell = eqx.tree_at(
            lambda c: (c.J, c.b), fl.cells.VanillaRNN(6, 2, key=jax.random.key(1)), (Q * radius, Q[0] * 0)
        )
        options = QUICK | {"optimiser": optax.sgd(1e-9), "loss": fl.losses.exponents}
        flosser = fl.Flosser(**options)
        assert run(flosser, cell, flosser.init(cell), 5, INPUTS * 1e-2)[2] == expected


def test_leaves_constraints_and_a_schedule_of_ones_own():
    """Of the flossed leaf alone, entries that `project` sets to zero are zero."""
    options = QUICK | {"schedule": OwnSchedule(3), "where": lambda cell: cell.weight_hh}
    flosser = fl.Flosser(
        **options, project=lambda cell: eqx.tree_at(lambda c: c.weight_hh, cell, cell.weight_hh.at[0].set(0))
    )
    before = gru()
    after, _, done = run(flosser, before, flosser.init(before), 4)
    assert done == [0, 0, 2, 0]
    np.testing.assert_array_equal(after.weight_hh[0], 0)
    assert (after.weight_hh[1:] != before.weight_hh[1:]).any()
    np.testing.assert_array_equal(after.weight_ih, before.weight_ih)


def test_a_block_is_floss():
    """On a sequence of the batch, with the same key and optimiser; and nothing happens between blocks."""
    cell, flosser = gru(), fl.Flosser(**QUICK)
    state = flosser.init(cell)
    assert flosser.due(state)
    flossed, state = flosser.update(cell, state, INPUTS[:1])
    key = jax.random.fold_in(jax.random.key(0), 0)
    expected, history = fl.floss(cell, INPUTS[0], key=key, k=3, window=8, epochs=2, report=False)
    assert_equal(flossed, expected)
    assert state.scalars()["flossing/loss"] == history.loss[-1]
    assert state.scalars()["flossing/epochs"] == 2
    assert not flosser.due(state)
    same, state = flosser.update(flossed, state, None)
    assert same is flossed
    assert flosser.due(state)


def test_stop_and_go_on_is_no_stop(tmp_path):
    flosser = fl.Flosser(**QUICK | {"threshold": 1e9, "sequences": 2})
    cell, state, done = run(flosser, gru(), flosser.init(gru()), 7)
    other, saved, before = run(flosser, gru(), flosser.init(gru()), 4)
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", (other, saved))
    again = fl.Flosser(**QUICK | {"threshold": 1e9, "sequences": 2})
    other, restored = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", (gru(1), again.init(gru(1))))
    other, restored, after = run(again, other, restored, 3)
    assert done == before + after == [2, 0, 1, 0, 1, 0, 1]
    assert_equal(cell, other)
    assert (restored.steps, restored.reach, restored.exponent_k) == (state.steps, state.reach, state.exponent_k)


def test_later_blocks_do_not_compile_again():
    """New batches and weights reuse the compiled loop: a block only traces the step for its checks."""
    traces = np.zeros(1)  # an array, since a list that changes makes another function of the step

    def step(cell, state, input):
        traces[0] += 1
        return cell(input, state)

    flosser, cell = fl.Flosser(**QUICK | {"threshold": 1e9, "step": step}), gru(5)
    state, counts = flosser.init(cell), []
    for seed in range(7):
        before = traces[0]
        cell, state = flosser.update(cell, state, INPUTS + seed, initial=jnp.zeros(6))
        counts.append(traces[0] - before)
    assert counts[4] == counts[6] < counts[0]


def test_flax():
    nnx = pytest.importorskip("flax.nnx")
    cell = nnx.GRUCell(in_features=2, hidden_features=6, rngs=nnx.Rngs(0))
    flosser = fl.Flosser(**QUICK)
    flossed, state, done = run(flosser, cell, flosser.init(cell), 3, INPUTS.astype(jnp.float32))
    assert done[0] == 2 and isinstance(flossed, nnx.GRUCell) and np.isfinite(state.exponent_k)


def test_your_own_rule_and_ratio():
    flosser = fl.Flosser(**QUICK, schedule=lambda step, measures: 3 if measures["reach"] < 1 else 0)
    cell, state = gru(), flosser.init(gru())
    cell, state = flosser.update(cell, state, None)
    cell, state = flosser.update(cell, state, None)
    cell, state = flosser.update(cell, state, INPUTS, reach=2.0)
    assert (state.epochs, state.reach) == (0, 2.0)
    flosser = fl.Flosser(**QUICK, schedule=preflossing(1))
    assert run(flosser, gru(), flosser.init(gru()), 3)[2] == [1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be an integer of at least 2"),
        ({"threshold": 0.0}, "threshold must be a positive number"),
        ({"every": 0}, "every must be an integer"),
        ({"sequences": 0}, "sequences must be an integer"),
        ({"interval": 0}, "interval must be an integer of at least 1 or 'auto'"),
        ({"k": 0}, "k must be an integer of at least 1, got k=0"),
        ({"transient": 8}, r"transient must be an integer from 0 to 7 \(the window has 8 steps\), got transient=8"),
        ({"target": np.zeros(2), "k": 3}, r"target must be a number, or one for each of k exponents, .*\(2,\) and k=3"),
        ({"target": float("inf")}, "target must be finite, got target=inf"),
        ({"clip": -1.0}, "clip must be a positive number, got clip=-1.0"),
        ({"tolerance": 0.0}, "tolerance must be a positive number"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        fl.Flosser(**QUICK | options)


def test_a_model_that_is_no_pytree():
    class Cell:
        W = jnp.eye(2)

    with pytest.raises(ValueError, match=r"got an object of class Cell, which is no pytree: derive the class from eq"):
        fl.Flosser(**QUICK).init(Cell())


def test_bad_updates_change_nothing():
    flosser, cell = fl.Flosser(**QUICK), gru()
    state = flosser.init(cell)
    with pytest.raises(ValueError, match="inputs must have axes .* with at least the 8 steps of the window"):
        flosser.update(cell, state, INPUTS[:, :7])
    with pytest.raises(ValueError, match="inputs must have axes"):
        flosser.update(cell, state, INPUTS[0, :, 0])
    with pytest.raises(ValueError, match="step must accept a state"):
        flosser.update(cell, state, INPUTS[..., :1])
    with pytest.raises(ValueError, match="update must be called outside jit"):
        eqx.filter_jit(flosser.update)(cell, state, INPUTS)
    with pytest.raises(ValueError, match="flossing_state must come from a call with the same model"):
        flosser.update(cell, flosser.init(fl.cells.VanillaRNN(6, 2, key=jax.random.key(0))), INPUTS)
    assert state.steps == 0


def test_flossers_are_static_arguments():
    """Of `eqx.filter_jit`, for example: a Flosser has a hash, and equals itself alone."""
    one, other = (fl.Flosser(window=10, optimiser=optax.adam(1e-3)) for _ in range(2))
    assert one == one != other and len({one, other}) == 2
    assert eqx.filter_jit(lambda flosser, x: x * flosser.window)(one, jnp.ones(())) == 10
