"""Schedules are counted: which epochs, how many flossing epochs."""

import pytest
from hypothesis import given, strategies as st

import flossing as fl
from flossing.experiment.config import Config
from flossing.experiment.reference import make_schedule


def due(schedule, epochs):
    return {epoch: schedule(epoch, {}) for epoch in range(1, epochs + 1) if schedule(epoch, {})}


def test_the_reference():
    """500 before epoch 1, then 500 at epochs 100 and 200, never again."""
    schedule = fl.join_schedules(fl.floss_before(500), fl.floss_periodically(500, every=100, blocks=2))
    assert due(schedule, 3001) == {1: 500, 100: 500, 200: 500}


@pytest.mark.parametrize(
    "condition, expected",
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
    happened = due(fl.floss_periodically(epochs, every=every, blocks=blocks), last)
    possible = last // every
    assert len(happened) == (0 if epochs == 0 else possible if blocks is None else min(blocks, possible))
    assert set(happened.values()) <= {epochs}
    assert all(epoch % every == 0 for epoch in happened)


@given(before=st.integers(0, 9), last=st.integers(1, 50))
def test_before_and_never(before, last):
    assert due(fl.floss_before(before), last) == ({1: before} if before else {})
    assert due(fl.floss_never(), last) == {}


@pytest.mark.parametrize("make", [lambda: fl.floss_before(-1), lambda: fl.floss_periodically(5, every=0)])
def test_bad_schedules(make):
    with pytest.raises(ValueError, match=r"must be an integer of at least \d, got \w+=-?\d"):
        make()
