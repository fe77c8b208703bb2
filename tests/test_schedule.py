"""Schedules: at which epochs, and how many flossing epochs."""

import hashlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

import flossing as fl
from flossing_lab.reference.config import Config, Plan
from flossing_lab.reference.experiment import build, make_schedule, task_loss


def due(schedule, epochs):
    return {epoch: schedule(epoch, {}) for epoch in range(1, epochs + 1) if schedule(epoch, {})}


def test_the_reference():
    """500 before epoch 1, then 500 at epochs 100 and 200, never again."""
    schedule = fl.schedules.sum_schedules(
        fl.schedules.preflossing(500), fl.schedules.interflossing(500, every=100, blocks=2)
    )
    assert due(schedule, 3001) == {1: 500, 100: 500, 200: 500}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("none", {}),
        ("before", {1: 500}),
        ("during", {100: 500, 200: 500}),
        ("before_and_during", {1: 500, 100: 500, 200: 500}),
    ],
)
def test_the_conditions_of_the_configuration(condition, expected):
    assert due(make_schedule(Config().with_values(condition=condition)), 3001) == expected


@given(
    epochs=st.integers(0, 9), every=st.integers(1, 50), blocks=st.integers(0, 9) | st.none(), last=st.integers(1, 500)
)
def test_periodic_counts(epochs, every, blocks, last):
    happened = due(fl.schedules.interflossing(epochs, every=every, blocks=blocks), last)
    possible = last // every
    assert len(happened) == (0 if epochs == 0 else possible if blocks is None else min(blocks, possible))
    assert set(happened.values()) <= {epochs}
    assert all(epoch % every == 0 for epoch in happened)


@given(before=st.integers(0, 9), last=st.integers(1, 50))
def test_before_and_never(before, last):
    assert due(fl.schedules.preflossing(before), last) == ({1: before} if before else {})
    assert due(fl.schedules.never(), last) == {}


@pytest.mark.parametrize("make", [lambda: fl.schedules.preflossing(-1), lambda: fl.schedules.interflossing(5, every=0)])
def test_bad_schedules(make):
    with pytest.raises(ValueError, match=r"must be an integer of at least \d, got \w+=-?\d"):
        make()


NORMS = {"distant": "gradient_norm/x0", "local": "gradient_norm/J"}


@pytest.mark.parametrize(("distant", "expected"), [(2e-3, 0), (1e-3, 7), (0.0, 7)])
def test_adaptive_flosses_while_the_gradient_is_lost(distant, expected):
    schedule = fl.schedules.adaptive(**NORMS, threshold=5e-4, preflossing=9, epochs=7, every=10)
    measures = {"gradient_norm/x0": np.asarray(distant), "gradient_norm/J": np.asarray(2.0)}
    happened = {epoch: schedule(epoch, measures) for epoch in range(1, 32)}
    assert happened == {epoch: 0 for epoch in range(1, 32)} | dict.fromkeys((11, 21, 31), expected) | {1: 9}


def test_adaptive_names_what_was_recorded():
    schedule = fl.schedules.adaptive(distant="gradient_norm/x", local="gradient_norm/J")
    message = r"must name recorded gradient norms \(gradient_norm/J\), got 'gradient_norm/x'"
    with pytest.raises(ValueError, match=message):
        schedule(101, {"gradient_norm/J": np.asarray(1.0), "loss": np.asarray(1.0)})


@pytest.mark.usefixtures("optax_promotion")
def test_adaptive_in_training():
    """With a threshold that is never passed, flossing is due every 4 epochs; with one that never is, only at first."""
    config = Config().with_values(units=8, k=3, batch=2, steps=20, delay=2, window=12, flossing_steps=20, epochs=9)
    e = build(config)
    for threshold, expected in ((1e9, 5 + 2 * 3), (1e-99, 5)):
        schedule = fl.schedules.adaptive(
            distant="gradient_norm/x0",
            local="gradient_norm/network.J",
            threshold=threshold,
            preflossing=5,
            epochs=3,
            every=4,
        )
        start = fl.init_training(e.model, e.optimiser, e.flossing)
        options = {"loss": task_loss, "batch": e.batch, "optimiser": e.optimiser, "key": e.key, "epochs": 9}
        chunks = list(fl.train(start, flossing=e.flossing, schedule=schedule, chunk=6, **options))
        assert chunks[-1].state.flossing_epoch == expected
        # Queried wherever flossing may become due, whatever the chunk length.
        assert [c.state.epoch for c in chunks if c.kind == "training"] == [4, 8, 9]


SMALL = {"units": 8, "k": 3, "batch": 2, "steps": 40, "delay": 5, "flossing_steps": 55}


def test_the_adaptive_condition():
    """Its window follows the task, its schedule is asked every `every` epochs."""
    config = Config().with_values(**SMALL, condition="adaptive", preflossing=4, interflossing=3, every=7)
    assert (config.longest_lag, config.window) == (10, 20)
    assert build(config).flossing.window == 20
    assert config.with_values(delay=15).window == 40  # no more than a sequence has
    assert config.with_values(window=33).window == 33
    schedule, lost = make_schedule(config), {"gradient_norm/x0": 1e-4, "gradient_norm/network.J": 1.0}
    assert {e: schedule(e, lost) for e in range(1, 20) if schedule(e, lost)} == {1: 4, 8: 3, 15: 3}
    assert not any(schedule(e, lost | {"gradient_norm/x0": 1e-2}) for e in range(2, 20))


def test_defaults_follow_the_condition():
    reference = Config()
    assert reference.plan == Plan(75, 55, 500, 500, every=100, flossing_rate=0.001, threshold=0.001)
    adaptive = reference.with_values(condition="adaptive", delay=30)
    assert adaptive.plan == Plan(80, 120, 1500, 50, every=25, flossing_rate=0.001, threshold=0.001)
    other = adaptive.with_values(units=40, delay=200, preflossing=0, learning_rate=0.01, batch=64)
    assert other.plan == Plan(40, 300, 0, 50, 25, 0.01, threshold=0.0005)
    # Given or by default, it is the same run.
    for config in (reference, adaptive):
        given = config.with_values(**config.plan._asdict())
        assert given.plan == config.plan
        assert given.digest == config.digest
        assert not given.differences(config)
        for name, value in config.plan._asdict().items():
            other = config.with_values(**{name: value / 2 if value < 1 else value - 1})
            assert other.digest != config.digest
            assert set(other.differences(config)) == {name}
    assert reference.with_values(units=20).k == 20
    assert set(reference.differences(adaptive)) == {"condition", "delay", *Plan._fields} - {
        "flossing_rate",
        "threshold",
    }


def test_the_threshold_follows_the_batch():
    """Each sequence four times, from its own initial state: the same loss, the same dL/dJ, and half of dL/dx0."""
    config = Config().with_values(**SMALL, condition="adaptive")
    model, batch = build(config).model, build(config).batch(jax.random.key(0))

    def norms(model, batch):
        gradient = eqx.filter_jit(jax.grad(lambda model: task_loss(model, batch)[0]))(model)
        return {"x0": jnp.linalg.norm(gradient.x0), "network.J": jnp.linalg.norm(gradient.network.J)}

    many = eqx.tree_at(lambda model: model.x0, model, jnp.tile(model.x0, (4, 1)))
    few = norms(model, batch)
    more = norms(many, jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 4), batch))
    np.testing.assert_allclose(more["network.J"], few["network.J"], rtol=1e-5)
    np.testing.assert_allclose(more["x0"], few["x0"] / 2, rtol=1e-5)
    assert config.with_values(batch=8).plan.threshold == pytest.approx(config.plan.threshold / 2)


@pytest.mark.usefixtures("optax_promotion")
def test_flossing_has_a_step_size_of_its_own():
    """Adam's first step is the learning rate, whatever the gradient: so far, at most, parameters move."""
    config = Config().with_values(units=8, k=4, window=12, flossing_steps=20, preflossing=1, epochs=1, blocks=0)
    for fields, expected in (({}, 1e-3), ({"flossing_rate": 0.02}, 0.02)):
        experiment = build(config.with_values(**fields))
        drawn = experiment.model
        update = eqx.filter_jit(experiment.flossing.update)
        flossed, _, _ = update(drawn, experiment.flossing.init(drawn), jax.random.key(0))
        moved = jnp.max(jnp.abs(flossed.network.J - drawn.network.J))
        np.testing.assert_allclose(moved, expected, rtol=1e-3)


@pytest.mark.usefixtures("optax_promotion")
def test_the_step_size_falls_at_the_end():
    """A gradient that never changes moves Adam by the learning rate itself."""
    experiment = build(Config().with_values(**SMALL, epochs=10, decay=4, learning_rate=0.1))
    gradient = {"weight": jnp.full(1, 0.01)}
    state, moved, update = experiment.optimiser.init(gradient), [], jax.jit(experiment.optimiser.update)
    for _ in range(10):
        updates, state = update(gradient, state)
        moved.append(-float(updates["weight"][0]))
    np.testing.assert_allclose(moved, 0.1 * np.array([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]), rtol=1e-5)
    with pytest.raises(ValueError, match="decay must be at most epochs=10, got decay=11"):
        Config().with_values(epochs=10, decay=11)


def test_fields_of_other_conditions_change_no_name():
    """Runs from before the adaptive condition and the flossing term keep their digest; new fields change it."""
    config = Config()
    assert config.digest == hashlib.sha256(b"{}").hexdigest()[:12]
    assert config.with_values(term_weight=0.1).digest != config.with_values(threshold=1e-4).digest != config.digest


def test_the_term_of_the_configuration():
    config = Config().with_values(**SMALL, condition="none", term_weight=0.5, term_every=2)
    assert build(config).term == fl.FlossingTerm(0.5, 2)
    assert build(config.with_values(term_weight=0.0)).term is None
