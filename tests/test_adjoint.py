"""Our own adjoint, which flossing epochs use, against JAX's reverse pass through the engine."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flossing._tangent.blocks import Blocks
from tests.helpers import flow_of, growth_of

N, K = 6, 4


def tanh_step(weights, h, s):
    """x' = tanh(J x + ws s)."""
    J, ws = weights
    return jnp.tanh(J @ h + ws * s)


def drawn(length):
    """Weights, state, inputs and basis of a small network, float64."""
    keys = jax.random.split(jax.random.key(3), 5)
    J = jax.random.normal(keys[0], (N, N)) / np.sqrt(N)
    basis = jnp.linalg.qr(jax.random.normal(keys[1], (N, K)))[0]
    ws, h, s = (jax.random.normal(key, (size,)) for key, size in zip(keys[2:], (N, N, length), strict=True))
    return (J, ws), h, s, basis


def ours(of, interval, step=tanh_step, segment=None, **window):
    """A function of the growth after the transient, different in each exponent."""
    weights, h, s, basis = of
    growth = growth_of(functools.partial(step, weights), h, s, basis, interval, segment=segment, **window)
    return jnp.sin(growth[window["transient"] :].sum(0)).sum()


def theirs(of, interval, step=tanh_step, **window):
    """The same, by the engine."""
    weights, h, s, basis = of
    growth = flow_of(functools.partial(step, weights), h, s, basis, interval=interval, **window).log_growth
    return jnp.sin(growth.sum(0)).sum()


def assert_close(found, wanted, rtol):
    """Leaf by leaf, relative to the largest entry."""
    for f, w in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(f, w, rtol=0, atol=rtol * np.abs(w).max())


@pytest.mark.parametrize(
    ("length", "transient", "segment"),
    [(1, 0, None), (7, 6, None), (40, 0, None), (43, 11, None), (40, 0, 5), (43, 11, 6)],
)
def test_gradient_is_that_of_the_engine(length, transient, segment):
    """Gradients in weights, state, inputs and basis, for any interval and segments, with one compiled program."""
    window = {"length": length, "transient": transient}
    of = drawn(length)
    run = jax.jit(jax.value_and_grad(functools.partial(ours, segment=segment, **window)))
    # Over more than 8 steps the tangents align, and QR loses what the gradient needs.
    for interval in (1, 3, 5, 8) if length > 8 else (1, 2, length + 4):
        value, gradient = jax.jit(jax.value_and_grad(functools.partial(theirs, interval=interval, **window)))(of)
        found, adjoint = run(of, jnp.asarray(interval))
        np.testing.assert_allclose(found, value, rtol=1e-11)
        assert_close(adjoint, gradient, 1e-9)
    assert run._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_value_without_a_gradient():
    """The primal function is a function of its own."""
    window = {"length": 9, "transient": 2}
    found = jax.jit(functools.partial(ours, **window))(drawn(9), jnp.asarray(3))
    wanted = jax.jit(functools.partial(theirs, interval=3, **window))(drawn(9))
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize("segment", [None, 5])
@pytest.mark.parametrize("inputs", ["integers", None])
def test_leaves_without_a_derivative(inputs, segment):
    """A random key and a counter in the state, integers or nothing for inputs, a complex state."""
    weights, h, _, _ = drawn(12)
    state = {"h": jax.lax.complex(h[:3], h[3:]), "key": jax.random.key(1), "count": jnp.asarray(0)}
    s = jnp.arange(12) % 3 if inputs else None
    basis = jnp.eye(6)[:, :K]

    def step(weights, state, s):
        key, now = jax.random.split(state["key"])
        noise = weights[1][:3] * jax.random.normal(now, (3,)) * (1.0 if s is None else s.astype(float))
        drive = jax.lax.complex(noise, jnp.zeros(3))
        h = jnp.tanh(jax.lax.complex(weights[0][:3, :3], weights[0][3:, 3:]) @ state["h"] + drive)
        return {"h": h, "key": key, "count": state["count"] + 1}

    window = {"length": 12, "transient": 3, "step": step}
    run = lambda loss, interval: jax.jit(jax.grad(lambda w: loss((w, state, s, basis), interval, **window)))(weights)  # noqa: E731
    assert_close(run(functools.partial(ours, segment=segment), jnp.asarray(2)), run(theirs, 2), 1e-10)


@pytest.mark.parametrize("segment", [None, 5])
def test_inputs_without_entries(segment):
    """Leaves with zero channels are allowed."""
    weights, h, s, basis = drawn(12)
    step = lambda weights, h, s: tanh_step(weights, h, s[0])  # noqa: E731
    of = lambda weights: (weights, h, (s, jnp.zeros((12, 0))), basis)  # noqa: E731
    window = {"length": 12, "transient": 3, "step": step}
    gradient = jax.jit(jax.grad(lambda w: ours(of(w), jnp.asarray(2), segment=segment, **window)))(weights)
    assert_close(gradient, jax.jit(jax.grad(lambda w: theirs(of(w), 2, **window)))(weights), 1e-10)


@pytest.mark.parametrize("segment", [pytest.param(None, marks=pytest.mark.slow), 6])
def test_many_sequences_at_once(segment):
    """Under vmap: each sequence's gradient is that of its own, and the sum's is the sum."""
    weights, h, _, basis = drawn(1)
    s = jax.random.normal(jax.random.key(8), (3, 20))
    loss = functools.partial(ours, interval=jnp.asarray(4), length=20, transient=4, segment=segment)
    of_one = jax.jit(jax.grad(lambda w, row: loss((w, h, row, basis))))
    each = [of_one(weights, row) for row in s]
    together = jax.jit(jax.grad(lambda w: jax.vmap(lambda row: loss((w, h, row, basis)))(s).sum()))(weights)
    assert_close(together, jax.tree.map(lambda *g: sum(g), *each), 1e-12)


def test_a_lost_direction_sends_no_gradient():
    """The third unit forgets: its growth is -inf, and the others' gradient is finite and that of the engine."""
    (J, ws), h, s, _ = drawn(10)
    J = J.at[2].set(0)
    basis = jnp.eye(N)

    def total(measure):
        def loss(J):
            growth = measure(lambda h, s: jnp.tanh(J @ h + ws * s), h, s, basis)
            return jnp.where(jnp.isfinite(growth), growth, 0).sum()

        return jax.jit(jax.grad(loss))(J)

    found = total(lambda *of: growth_of(*of, jnp.asarray(1), length=10, transient=0))
    wanted = total(lambda *of: flow_of(*of, length=10, interval=1).log_growth)
    assert np.isfinite(found).all()
    assert_close(found, wanted, 1e-8)


@pytest.mark.parametrize(("length", "transient"), [(1, 0), (10, 0), (10, 3), (10, 9), (17, 4)])
def test_blocks_end_at_the_transient_and_at_the_end(length, transient):
    """Blocks are contiguous, and none is longer than the interval."""
    for interval in range(1, length + 3):
        blocks = Blocks(jnp.asarray(interval), length, transient)
        ends = [tuple(map(int, blocks.bounds(jnp.asarray(b)))) for b in range(int(blocks.count))]
        assert ends[0][0] == 0
        assert ends[-1][1] == length
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))
        assert all(0 < stop - start <= interval for start, stop in ends)
        assert transient in {0, *(stop for _, stop in ends)}


@pytest.mark.parametrize("size", [1, 3, 4, 10, 11])
def test_segments_cut_blocks_into_pieces(size):
    """Each step is in one piece, in order; only what an open segment cuts off ends no block."""
    for interval, transient in [(1, 0), (3, 4), (4, 0), (12, 3)]:
        blocks = Blocks(jnp.asarray(interval), 11, transient)
        each, last = blocks.segments(size, 11)
        pieces, ended = [], []
        for segment in [*(each(jnp.asarray(start)) for start in range(0, last.start, size)), last]:
            for b in range(int(segment.first), int(segment.end)):
                pieces.append(tuple(map(int, segment.bounds(b))))
                ended.append((b, pieces[-1][1]))
            if segment.is_open:
                pieces.append((int(segment.open_start), int(segment.stop)))
        assert [t for start, stop in pieces for t in range(start, stop)] == list(range(11))
        assert ended == [(b, int(blocks.bounds(b)[1])) for b in range(int(blocks.count))]


def test_without_a_gradient_nothing_is_stored():
    """Memory for values alone does not grow with the number of steps but for the growth itself."""
    of = drawn(2000)
    run = functools.partial(ours, interval=jnp.asarray(3), length=2000, transient=0)
    alone, both = (jax.jit(f).lower(of).compile().memory_analysis() for f in (run, jax.value_and_grad(run)))
    assert alone.temp_size_in_bytes < 8 * 2000 * K * 8 < both.temp_size_in_bytes / 2
