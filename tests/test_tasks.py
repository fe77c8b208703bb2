"""The binary tasks against short truth tables; the others against their layout and baseline losses."""

import functools
import itertools
import operator
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import flossing as fl
from flossing.tasks import (
    Adding,
    CopyMemory,
    DelayedCopy,
    Digits,
    MackeyGlass,
    MatchToSample,
    SpatialXOR,
    TemporalParity,
    TemporalXOR,
    _digits,
    _mackey_glass,
    valid_time,
)

few = settings(max_examples=20, deadline=None)
# Few shapes, so that the many examples share compiled programs; among them the shortest and the longest delays.
DELAYS_AND_STEPS = st.sampled_from([(1, 20), (7, 33), (20, 20)])
seeds = st.integers(0, 2**31)


def draw(task, seed):
    """A random stream of bits of the task's length, and the sequence it makes."""
    bits = np.random.default_rng(seed).integers(0, 2, (task.longest_lag + task.steps, task.channels))
    return bits, jax.tree_util.tree_map(np.asarray, task.trial(jnp.asarray(bits, float)))


@few
@given(shape=DELAYS_AND_STEPS, seed=seeds, amplitude=st.floats(-3, 3))
def test_copy(shape, seed, amplitude):
    delay, steps = shape
    bits, sequence = draw(DelayedCopy(steps=steps, delay=delay, amplitude=amplitude), seed)
    for t in range(steps):
        assert int(sequence.targets[t]) == bits[t, 0]  # history comes first: step t of the run is row t + delay
        assert sequence.inputs[t, 0] == pytest.approx(amplitude * bits[t + delay, 0])
        assert sequence.mask[t] == (t + 1 >= delay)


@few
@given(shape=st.sampled_from([(1, 1, 0), (8, 1, 5), (3, 2, 20), (5, 3, 1)]), seed=seeds)
def test_temporal_xor(shape, seed):
    delay, order, extra = shape
    longest = delay * 2**order
    task = TemporalXOR(steps=longest + extra, delay=delay, order=order)
    bits, sequence = draw(task, seed)
    for t in range(task.steps):
        lagged = [int(bits[longest + t - i * delay, 0]) for i in range(1, 2**order + 1)]
        assert int(sequence.targets[t]) == functools.reduce(operator.xor, lagged)
        assert sequence.mask[t] == (t + 1 >= longest)


@few
@given(shape=DELAYS_AND_STEPS, seed=seeds)
def test_spatial_xor(shape, seed):
    delay, steps = shape
    bits, sequence = draw(SpatialXOR(steps=steps, delay=delay), seed)
    for t in range(steps):
        assert int(sequence.targets[t]) == bits[t, 0] ^ bits[t, 1] ^ bits[t, 2]
        assert sequence.mask[t] == (t + 1 >= delay)


@few
@given(shape=st.sampled_from([(2, 0), (5, 20), (12, 3)]), seed=seeds)
def test_temporal_parity(shape, seed):
    delay, extra = shape
    task = TemporalParity(steps=delay + extra, delay=delay)
    bits, sequence = draw(task, seed)
    for t in range(task.steps):
        now = t + task.longest_lag  # its row in the stream
        assert int(sequence.targets[t]) == functools.reduce(operator.xor, bits[now - delay + 1 : now + 1, 0])
        assert sequence.mask[t] == (t + 1 >= delay)
    assert (
        sequence.inputs[:, 0] == bits[delay - 1 :, 0]
    ).all()  # the first scored parity is that of bits that were shown


@pytest.mark.parametrize("task", [DelayedCopy(), TemporalXOR(), SpatialXOR(), TemporalParity()])
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
    ("make", "message"),
    [
        (lambda: TemporalXOR(steps=39, delay=20), "delay must leave a scored step.*steps=39.*delay=20.*40"),
        (lambda: DelayedCopy(steps=5, delay=6), "delay must leave a scored step"),
        (lambda: DelayedCopy(delay=-1), "delay must be an integer of at least 0, got delay=-1"),
        (lambda: TemporalXOR(delay=0), "delay must be an integer of at least 1, got delay=0"),
        (lambda: TemporalXOR(order=0), "order must be an integer from 1 to 16, got order=0"),
        (lambda: SpatialXOR(first_scored=301), "first_scored must be an integer from 1 to 300, got first_scored=301"),
        (lambda: DelayedCopy(steps=0), "steps must be an integer of at least 1, got steps=0"),
        (lambda: TemporalParity(delay=1), r"delay must be an integer from 2 to 300 \(steps=300\), got delay=1"),
        (lambda: TemporalParity(steps=9, delay=10), r"delay must be an integer from 2 to 9 \(steps=9\), got delay=10"),
        (lambda: CopyMemory(delay=0), "delay must be an integer of at least 1, got delay=0"),
        (lambda: Adding(steps=1), "steps must be an integer of at least 2, got steps=1"),
        (lambda: Digits(repeat=0), "repeat must be an integer of at least 1, got repeat=0"),
        (lambda: MatchToSample(stimuli=1), "stimuli must be an integer of at least 2, got stimuli=1"),
        (lambda: MatchToSample(noise=-0.1), "noise must be a finite number of at least 0, got noise=-0.1"),
        (lambda: MackeyGlass(delay=4), r"delay must be an integer of at least 5 \(below 5 the signal comes to rest\)"),
        (lambda: MackeyGlass(steps=10_000), "steps must be an integer from 18 to 9999 .* got steps=10000"),
    ],
)
def test_bad_tasks(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_copy_memory_layout():
    task = CopyMemory(delay=5)
    sequence = task(jax.random.key(0))
    shown, symbols = sequence.inputs.argmax(1), sequence.targets[15:]
    assert (sequence.inputs.sum(1) == 1).all()
    assert sequence.inputs.shape == (25, task.channels)
    assert (shown[:10] == symbols).all()
    assert set(np.unique(symbols)) <= set(range(8))
    assert list(shown[10:]) == [8, 8, 8, 8, 9] + [8] * 10
    assert (sequence.targets[:15] == 8).all()
    assert sequence.mask.all()
    many = jax.vmap(task)(jax.random.split(jax.random.key(1), 1000)).targets[:, 15:]
    assert np.abs(np.bincount(many.ravel(), minlength=8) / 10_000 - 1 / 8).max() < 0.015  # 4.5 standard errors


def test_copy_memory_without_memory():
    """Blank for sure, then 8 symbols alike: no loss in delay + 10 steps, log(8) in 10; right once in 8 symbols."""
    task = CopyMemory(delay=30)
    outputs = jnp.zeros((50, 9)).at[:40, 8].set(1e3).at[40:, 8].set(-1e3)
    sequence = task(jax.random.key(0))
    score = task.score(outputs, sequence)
    assert float(score.loss) == pytest.approx(task.baseline_loss, rel=1e-12)
    assert task.baseline_loss == pytest.approx(10 * np.log(8) / 50, rel=1e-12)
    assert float(score.accuracy) == (sequence.targets[40:] == 0).mean()  # of equal logits, argmax takes the first


def test_adding():
    """The sum is that of the marked numbers; saying 1 has the variance of two uniform numbers, 2/12, as its error."""
    task = Adding(steps=9)
    sequences = jax.vmap(task)(jax.random.split(jax.random.key(0), 20_000))
    numbers, marks = sequences.inputs[..., 0], sequences.inputs[..., 1]
    assert (marks[:, :4].sum(1) == 1).all()
    assert (marks[:, 4:].sum(1) == 1).all()
    assert set(np.unique(marks)) == {0.0, 1.0}
    assert (marks.sum(0) > 0).all()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert np.allclose(sequences.targets[:, -1], (numbers * marks).sum(1))
    assert (np.asarray(sequences.mask) == (np.arange(9) == 8)).all()
    score = jax.vmap(task.score)(jnp.ones((20_000, 9, 1)), sequences)
    assert float(score.loss.mean()) == pytest.approx(task.baseline_loss, abs=4 * np.sqrt(7 / 180 / 20_000))
    # The density of the sum is 1 at its mean, so that 0.08 of all sums, but for 0.04^2, lie within 0.04 of it.
    assert float(score.accuracy.mean()) == pytest.approx(0.08 - 0.04**2, abs=4 * np.sqrt(0.08 / 20_000))


def test_digits_are_split_once_and_for_all():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels, test = pixels / 16, Digits().test()
    assert test.inputs.shape == (360, 64, 1)
    assert test.mask.sum() == 360
    assert test.mask[:, -1].all()
    index = {image.tobytes(): i for i, image in enumerate(pixels)}
    assert len(index) == 1797  # no image is there twice
    in_test = [index[np.asarray(image).tobytes()] for image in test.inputs[..., 0]]
    assert in_test[:3] == [1442, 455, 584]
    assert len(set(in_test)) == 360
    assert (test.targets[:, -1] == labels[in_test]).all()  # pyright: ignore[reportGeneralTypeIssues]

    drawn = jax.vmap(Digits())(jax.random.split(jax.random.key(0), 5000))
    trained = [index[np.asarray(image).tobytes()] for image in drawn.inputs[..., 0]]
    assert not set(trained) & set(in_test)
    assert (drawn.targets[:, -1] == labels[trained]).all()  # pyright: ignore[reportGeneralTypeIssues]
    assert 1350 < len(set(trained)) <= 1437  # 1393 are expected in 5000 draws


def test_permuted_digits():
    plain, permuted = Digits().test(), Digits(permuted=True).test()
    assert (plain.targets == permuted.targets).all()
    order = np.random.RandomState(1).permutation(64)
    assert (permuted.inputs == plain.inputs[:, order]).all()
    assert list(order[:4]) != [0, 1, 2, 3]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    _digits._load.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"^Digits needs scikit-learn: pip install 'flossing\[digits\]'$"):
        Digits()


TASKS = [
    *(kind(steps=24, delay=3) for kind in (DelayedCopy, TemporalXOR, SpatialXOR, TemporalParity)),
    CopyMemory(delay=4),
    Adding(steps=24),
    Digits(),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_scores(task):
    """Confident and right: no loss. Confident and wrong: loss, no accuracy. Unscored steps do not count."""
    sequence = task(jax.random.key(2))
    assert sequence.inputs.shape == (24 if not isinstance(task, Digits) else 64, task.channels)
    if isinstance(task, Adding):
        right = sequence.targets[:, None]
        wrong, lost = right + 0.5, 0.25
    elif task.outputs == 1:
        right = 50 * (2 * sequence.targets[:, None] - 1)
        wrong, lost = -right, 50
    else:
        right = 50 * jax.nn.one_hot(sequence.targets, task.outputs)
        wrong, lost = jnp.roll(right, 1, axis=1), 50
    assert np.allclose(task.score(right, sequence), (0, 1), atol=1e-12)
    assert np.allclose(task.score(wrong, sequence), (lost, 0), atol=1e-12)
    scored = jnp.where(sequence.mask[:, None], right, 1e3)
    assert np.allclose(task.score(scored, sequence), (0, 1), atol=1e-12)
    if not isinstance(task, (Adding, CopyMemory)):  # these have a test of their own
        nothing = task.score(jnp.zeros((len(sequence.mask), task.outputs)), sequence)
        assert float(nothing.loss) == pytest.approx(task.baseline_loss, rel=1e-12)


@pytest.mark.parametrize("permuted", [False, True])
def test_digits_that_last_longer(permuted):
    short, long = Digits(permuted=permuted).test(), Digits(permuted=permuted, repeat=4).test()
    assert long.inputs.shape == (360, 256, 1)
    assert all((long.inputs[:, i::4] == short.inputs).all() for i in range(4))
    assert (long.targets[:, -1] == short.targets[:, -1]).all()
    assert (np.asarray(long.mask) == (np.arange(256) == 255)).all()


def test_match_to_sample():
    """A match shows the sample again, any other trial another stimulus; half are matches, and all stimuli alike."""
    task = MatchToSample(delay=4, stimuli=3, shown=2, noise=0.0)
    many = jax.tree_util.tree_map(np.asarray, jax.vmap(task)(jax.random.split(jax.random.key(0), 6000)))
    assert many.inputs.shape == (6000, task.steps, task.channels) == (6000, 10, 4)
    sample, test = many.inputs[:, 0, :3].argmax(1), many.inputs[:, 6, :3].argmax(1)
    assert (many.inputs[..., :3].sum(2) == [1, 1, 0, 0, 0, 0, 1, 1, 0, 0]).all()
    assert (many.inputs[:, 1, :3].argmax(1) == sample).all() and (many.inputs[:, 7, :3].argmax(1) == test).all()
    assert (many.inputs[..., 3] == [1] * 8 + [0] * 2).all()  # fixation
    assert (many.mask == [False] * 8 + [True] * 2).all()
    assert (many.targets[:, 8:] == (sample == test)[:, None]).all() and not many.targets[:, :8].any()
    counts = np.bincount(3 * sample + test, minlength=9) / 6000
    assert np.abs(counts - np.where(np.eye(3), 1 / 6, 1 / 12).ravel()).max() < 4 * np.sqrt(1 / 6 / 6000)
    score = task.score(jnp.zeros((10, 1)), jax.tree_util.tree_map(lambda a: jnp.asarray(a[0]), many))
    assert float(score.loss) == pytest.approx(task.baseline_loss)
    noisy = jax.vmap(MatchToSample(delay=4, stimuli=3, shown=2))(jax.random.split(jax.random.key(0), 6000)).inputs
    deviation = np.asarray(noisy) - many.inputs
    assert deviation.std() == pytest.approx(0.1, rel=0.01) and abs(deviation.mean()) < 1e-3


def test_mackey_glass_solves_its_equation():
    """The slope of the signal is that of the equation; `flow` continues the signal from its history."""
    signal, history = _mackey_glass._signal(17)
    assert len(signal) == 30_000 and len(history) == 171 and signal[-1] == history[-1]
    task = MackeyGlass(steps=300)
    flow = jax.jit(task.flow)
    state, fine = task.history, [task.history]
    for _ in range(40):
        state = flow(state)
        fine.append(state[-10:])
    x = np.concatenate([np.asarray(fine[0]), *map(np.asarray, fine[1:])])  # ten values in a unit of time
    slope = (x[2:] - x[:-2]) / 0.2
    now, past = x[1:-1], np.concatenate([np.full(170, np.nan), x])[1 : len(x) - 1]
    wanted = 0.2 * past / (1 + past**10) - 0.1 * now
    known = np.isfinite(wanted)
    assert known.sum() > 350 and np.abs(slope - wanted)[known].max() < 2e-4


def test_the_shortest_delay_gives_a_signal_that_moves():
    assert 0.05 < np.std(_mackey_glass._signal(5)[0]) < 1


def test_mackey_glass_trials():
    task = MackeyGlass(steps=60)
    values = task._values()
    assert abs(values.mean()) < 1e-9 and values.std() == pytest.approx(1)
    trial = task(jax.random.key(0))
    assert trial.inputs.shape == (60, 1) and (trial.inputs[1:, 0] == trial.targets[:-1]).all()
    assert int(trial.mask.argmax()) == 17 and trial.mask[17:].all()
    tests = task.test(10)
    assert tests.inputs.shape == (10, 60, 1)
    assert float(tests.inputs[0, 0, 0]) == pytest.approx(values[20_000], rel=1e-6)
    assert float(tests.targets[-1, -1]) == pytest.approx(values[-1], rel=1e-6)
    drawn = np.asarray(jax.vmap(task)(jax.random.split(jax.random.key(1), 500)).inputs[:, :2, 0])
    pieces = {(round(float(a), 5), round(float(b), 5)) for a, b in itertools.pairwise(values[:20_000])}
    assert all((round(float(a), 5), round(float(b), 5)) in pieces for a, b in drawn)  # never from the part for tests
    slope, rest = np.polyfit(values[:-1], values[1:], 1)
    assert task.baseline_loss == pytest.approx(np.mean((values[1:] - slope * values[:-1] - rest) ** 2), rel=1e-3)
    score = task.score(tests.targets[0][:, None] + 0.1, fl.tasks.Trial(*(array[0] for array in tests)))
    assert float(score.loss) == pytest.approx(0.01) and float(score.accuracy) == 0


def test_valid_time():
    actual = jnp.zeros(5)
    assert int(valid_time(jnp.array([[0.1], [-0.3], [0.5], [0.0], [0.0]]), actual)) == 2
    assert int(valid_time(jnp.full((5, 1), 0.4), actual)) == 5
    assert int(valid_time(jnp.array([[0.1], [jnp.nan], [0], [0], [0]]), actual)) == 1
    assert int(valid_time(jnp.full((5, 1), 0.4), actual, tolerance=0.3)) == 0
    with pytest.raises(ValueError, match=r"forecast must have the shape \(5, 1\) of actual, got \(4, 1\)"):
        valid_time(jnp.zeros((4, 1)), actual)


class Line(eqx.Module):
    """Holds the last `length` inputs, the newest first."""

    length: int = eqx.field(static=True)

    def __call__(self, input, state):
        return jnp.concatenate([input, state[:-1]])

    def zeros(self):
        return jnp.zeros(self.length)

    def output(self, state):
        return state


def test_a_network_continues_what_it_read():
    """A delay line whose readout is its oldest input goes on periodically; its closed loop is a permutation."""
    network = fl.cells.Network(Line(4), key=jax.random.key(0))
    network = eqx.tree_at(lambda n: (n.readout.weight, n.readout.bias), network, (jnp.eye(4)[3:], jnp.zeros(1)))
    inputs = jnp.arange(1.0, 11.0)[:, None]
    outputs, state = network.forecast(inputs, 6)
    assert outputs[:, 0].tolist() == [7, 8, 9, 10, 7, 8]
    assert state.tolist() == [8, 7, 10, 9]
    exponents = fl.lyapunov_spectrum(network.closed_loop, None, state=state, steps=50).exponents
    np.testing.assert_allclose(exponents, 0, atol=1e-12)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got steps=0"):
        network.forecast(inputs, 0)
