"""Arms of a trial that floss during training: they cost what the others do, and are compared two at a time."""

import numpy as np
import pytest

from flossing_lab.comparison import curves, paired, table as trial_table
from flossing_lab.comparison.picture import draw
from flossing_lab.comparison.protocol import read_trial
from tests.test_compare import TINY


@pytest.fixture
def protocol(tmp_path):
    return tmp_path / "tiny.toml"


def test_an_adaptive_arm_may_cost_what_the_others_do(protocol):
    protocol.write_text(TINY.replace("[seconds.xor]", "[arms.adaptive]\nbefore = 1\nthreshold = 1e-3\n\n[seconds.xor]"))
    trial = read_trial(protocol)
    assert [trial.budget("xor", "tanh", arm) for arm in ("none", "flossing")] == [None, None]
    budget = trial.budget("xor", "tanh", "adaptive")
    assert budget is not None
    training, flossing, limit = budget
    assert limit == pytest.approx(4 * training + 3 * flossing) == pytest.approx(10 * training)
    assert trial.epochs("xor", "tanh", "adaptive") == 8  # where no block follows: 1 flossing epoch costs 2 of training
    assert [("budget" in trial.recorded(run)) for run in trial.runs()] == [False] * 4 + [True] * 2
    protocol.write_text(protocol.read_text().replace("measure =", "seconds = 0.5\nmeasure ="))
    assert read_trial(protocol).budget("xor", "tanh", "adaptive") == (training, flossing, 0.5)


def test_a_term_of_the_loss_counts_as_cost(protocol):
    """10 epochs of 2 ms in all; with a flossing epoch of 4 ms in every second one, an epoch of training takes 4 ms."""
    protocol.write_text(TINY.replace("[seconds.xor]", "[arms.term]\nterm = 0.5\nterm_every = 2\n\n[seconds.xor]"))
    trial = read_trial(protocol)
    assert [trial.epochs("xor", "tanh", arm) for arm in trial.arms] == [10, 4, 5]
    assert [trial.label(arm) for arm in trial.arms] == ["no flossing", "flossing", "term"]
    recorded = [trial.recorded(run)["arm"] for run in trial.runs()]
    assert [("term" in each) for each in recorded] == [False] * 4 + [True] * 2
    np.testing.assert_allclose(curves.times(trial, "xor", "tanh", "term"), [5 * 4e-3])


def test_three_arms_are_compared_two_at_a_time(protocol):
    protocol.write_text(TINY.replace("[seconds.xor]", "[arms.term]\nterm = 0.5\n\n[seconds.xor]"))
    trial = read_trial(protocol)
    of = {"task": "xor", "network": "tanh", "seed": 0, "loss": 0.5, "failure": "", "curve": [], "accuracies": []}
    cost = {"seconds": {"flossing": 1.0, "training": 2.0}, "epochs": 4}
    solved = {("none", 1): 0.5, ("none", 2): 0.5, ("flossing", 1): 0.99, ("flossing", 2): 0.5, ("term", 1): 0.99}
    found = [{**of, **cost, "arm": arm, "draw": i, "accuracy": value} for (arm, i), value in solved.items()]
    text = trial_table.markdown(trial, found)
    heads = [line for line in text.splitlines() if line.startswith("### ")]
    assert heads == [f"### All draws, {pair}" for pair in (
        "flossing against no flossing", "term against no flossing", "term against flossing")]  # fmt: skip
    assert "| tanh | 0 of 2 | 1 of 2 |" in text and "| tanh | 0 of 1 | 1 of 1 |" in text
    assert paired.shares(trial, found, "tanh", "xor") == {
        "none": 0,
        "flossing": 1,
        "term": 1,
    }  # the first draw alone is in all arms
    assert len(draw(trial, found).get_axes()[0].collections) == 3
