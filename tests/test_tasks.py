"""The tasks against truth tables written in three lines."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from flossing.tasks import DelayedCopy, SpatialXOR, TemporalXOR

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)


def draw(task, seed):
    """A random stream of bits of the task's length, and the sequence it makes."""
    bits = np.random.default_rng(seed).integers(0, 2, (task.longest_lag + task.steps, task.channels))
    return bits, jax.tree_util.tree_map(np.asarray, task.sequence(jnp.asarray(bits, float)))


@few
@given(delay=st.integers(1, 20), steps=st.integers(20, 60), seed=seeds, amplitude=st.floats(-3, 3))
def test_copy(delay, steps, seed, amplitude):
    bits, sequence = draw(DelayedCopy(steps=steps, delay=delay, amplitude=amplitude), seed)
    for t in range(steps):
        assert int(sequence.targets[t]) == bits[t, 0]  # history comes first: step t of the run is row t + delay
        assert sequence.inputs[t, 0] == pytest.approx(amplitude * bits[t + delay, 0])
        assert sequence.mask[t] == (t + 1 >= delay)


@few
@given(delay=st.integers(1, 8), order=st.integers(1, 3), extra=st.integers(0, 20), seed=seeds)
def test_temporal_xor(delay, order, extra, seed):
    longest = delay * 2**order
    task = TemporalXOR(steps=longest + extra, delay=delay, order=order)
    bits, sequence = draw(task, seed)
    for t in range(task.steps):
        lagged = [int(bits[longest + t - i * delay, 0]) for i in range(1, 2**order + 1)]
        assert int(sequence.targets[t]) == functools.reduce(operator.xor, lagged)
        assert sequence.mask[t] == (t + 1 >= longest)


@few
@given(delay=st.integers(1, 20), steps=st.integers(20, 40), seed=seeds)
def test_spatial_xor(delay, steps, seed):
    bits, sequence = draw(SpatialXOR(steps=steps, delay=delay), seed)
    for t in range(steps):
        assert int(sequence.targets[t]) == bits[t, 0] ^ bits[t, 1] ^ bits[t, 2]
        assert sequence.mask[t] == (t + 1 >= delay)


@pytest.mark.parametrize("task", [DelayedCopy(), TemporalXOR(), SpatialXOR()])
def test_drawn_sequences(task):
    sequence = task(jax.random.key(0))
    assert sequence.inputs.shape == (300, task.channels)
    assert sequence.targets.shape == sequence.mask.shape == (300,)
    assert set(np.unique(sequence.inputs)) == {0.0, 1.0}
    assert 0.4 < float(sequence.targets.mean()) < 0.6
    other = task(jax.random.key(1))
    assert (sequence.inputs != other.inputs).any()
    again = task(jax.random.key(0))
    assert all((a == b).all() for a, b in zip(sequence, again, strict=True))


def test_first_scored_can_be_said():
    assert int(TemporalXOR(delay=10, order=2, first_scored=20)(jax.random.key(0)).mask.argmax()) == 19


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TemporalXOR(steps=39, delay=20), "delay must leave a scored step.*steps=39.*delay=20.*40"),
        (lambda: DelayedCopy(steps=5, delay=6), "delay must leave a scored step"),
        (lambda: DelayedCopy(delay=0), "delay must be an integer of at least 1, got delay=0"),
        (lambda: TemporalXOR(order=0), "order must be an integer from 1 to 16, got order=0"),
        (lambda: SpatialXOR(first_scored=301), "first_scored must be an integer from 1 to 300, got first_scored=301"),
        (lambda: DelayedCopy(steps=0), "steps must be an integer of at least 1, got steps=0"),
    ],
)
def test_bad_tasks(make, message):
    with pytest.raises(ValueError, match=message):
        make()
