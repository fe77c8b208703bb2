"""What the tables of a comparison say: tests, intervals, verdicts that wait for their family, and harm."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from flossing_lab import statistics
from flossing_lab.comparison import best, curves, paired, runs as trial_runs, table as trial_table
from flossing_lab.comparison.protocol import Trial, read_trial
from tests.test_compare import TINY, protocol as protocol


def test_mcnemar_holm_and_the_interval():
    found = statistics.pair([(True, True)] * 3 + [(False, True)] * 9 + [(True, False)] + [(False, False)] * 7)
    assert found == (20, 4, 12, 1, 9)
    assert found.difference == pytest.approx(0.4)
    assert found.p == pytest.approx(22 / 2**10)  # 2 (1 + 10) / 2^10
    ours, theirs = 10 / 22, 2 / 22
    half = norm.ppf(0.975) * math.sqrt((ours + theirs - (ours - theirs) ** 2) / 22)
    np.testing.assert_allclose(found.interval, [ours - theirs - half, ours - theirs + half], rtol=1e-6)
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.smallest_difference(32, 0.05) == 6 / 32 and binomtest(6, 6).pvalue < 0.05 < binomtest(5, 5).pvalue
    assert math.isnan(paired.smallest_difference(5, 0.05))
    assert statistics.pair([(True, True)] * 4).p == 1


def test_the_interval_covers():
    """Of 95 % intervals for a difference of 0.2 with 32 pairs, 95 % hold it, give or take their own error."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        kinds = rng.choice(4, 32, p=[0.3, 0.3, 0.1, 0.3])
        low, high = statistics.pair([(k in (0, 2), k in (0, 1)) for k in kinds]).interval
        held += low <= 0.2 <= high
    assert 0.93 < held / 1000 < 0.98


def test_the_table_says_what_the_pairs_decide(protocol):
    trial = Trial.model_validate(
        read_trial(protocol).model_dump() | {"networks": {"tanh": {"cell": "tanh", "draws": 12, "vary": ["gain"]}}},
        strict=False,
    )
    base = {"failure": None, "seconds": {"training": 360.0}, "curve": [1.0], "accuracies": [0.5], "epochs": 4}
    runs = [
        {**run._asdict(), **base, "accuracy": 0.99 if run.arm == "flossing" and run.draw < 9 else 0.5, "loss": 1.0}
        for run in trial.runs()
    ]
    text = trial_table.markdown(trial, runs)
    assert "| tanh | 0 of 12 | 8 of 12 | +0.67 (" in text and "| 0.0078 | 0.0078 | better |" in text
    assert "| tanh | 0 → 8 of 12 (0.0078) |" in text
    assert "| tanh | 0.5 → 0.99 (0.0078) |" in text  # eight of twelve pairs differ, all in one direction
    text = trial_table.markdown(trial, [run for run in runs if run["draw"] < 12])
    assert "|  |  | 1 of 12 pairs are missing |" in text
    assert "2 of 24 runs are missing, about 0.2 core-hours." in text
    for run in runs:
        run["accuracy"] = 0.5
    assert "no difference shown (one of 0.50 could have been)" in trial_table.markdown(trial, runs)
    few = trial.model_copy(update={"networks": {"tanh": trial.networks["tanh"].model_copy(update={"draws": 5})}})
    text = trial_table.markdown(few, [run for run in runs if run["draw"] <= 5])
    assert "no difference shown (none can be with so few pairs)" in text
    runs[0]["failure"] = "diverged"
    assert not paired.is_solved(trial, {**runs[0], "accuracy": 1.0})


def test_the_best_draws_are_compared_and_harm_is_said(protocol):
    protocol.write_text(TINY.replace("again = 2", "again = 10"))
    trial = read_trial(protocol)

    def runs(arm, values):
        of = {"task": "xor", "network": "tanh", "draw": 1, "arm": arm}
        return [{**of, "seed": i, "accuracy": v, "loss": v, "failure": "" if v else "broke"}
                for i, v in enumerate(values, 1)]  # fmt: skip

    low, high = np.linspace(0.5, 0.6, 10).tolist(), np.linspace(0.955, 0.985, 10).tolist()
    head, rows, harm = best.table(trial, runs("none", low) + runs("flossing", high))
    assert head[2:] == ["no flossing", "flossing", "p (solved, Fisher)", "p (value, rank sum)", "flossing"]
    assert rows[0][2].startswith("0 of 10, 0.55 (") and rows[0][3].startswith("10 of 10, 0.97 (")
    assert rows[0][4:] == ("2.2e-05", "2.2e-05", "better") and harm.endswith(": none.")
    _, rows, harm = best.table(trial, runs("none", high) + runs("flossing", low))
    assert rows[0][6] == "worse" and harm.endswith(": tanh on XOR.")
    _, rows, harm = best.table(trial, runs("none", high) + runs("flossing", [*high[:9], 0.0]))
    assert rows[0][6] == "no difference shown" and rows[0][3].startswith("9 of 10")
    _, rows, _ = best.table(trial, runs("none", high) + runs("flossing", high[:9]))
    assert rows[0][4:] == ("", "", "")  # no verdict before all seeds are there
    _, rows, harm = best.table(trial, runs("none", high) + runs("flossing", [0.0] * 6 + high[:4]))
    assert rows[0][3] == "4 of 10, failed (failed to 0.962), 6 failed" and harm.endswith(": tanh on XOR.")
    row = best.Row(trial.tasks["xor"], "tanh", runs("none", [0.94] * 10), runs("flossing", [0.96] * 4 + [0.1] * 6))
    said = [best.cells_of(trial, row, p)[-1] for p in ((0.01, 0.01), (0.01, 0.9), (0.9, 0.01), (0.9, 0.9))]
    assert said == ["solves more, ends worse", "better", "worse", "no difference shown"]
    loss = trial.tasks["xor"].model_copy(update={"measure": "loss"})
    cases = ((0.95, 1.0, False), (0.95, 1.1, True), (0.95, 0.0, True), (1.0, 0.5, False))
    for before, after, harmed in cases:  # a tenth of the loss; 0.0 stands for a failed run
        assert best.is_harmed(best.Row(loss, "tanh", runs("none", [before]), runs("flossing", [after]))) is harmed


def test_verdicts_wait_for_the_whole_family(protocol):
    """A second network whose pairs are missing, and a third that runs in one arm alone and is in no family."""
    more = '[networks.leaky]\ncell = "leaky"\ndraws = 2\nvary = ["gain"]\n\n'
    more += '[networks.GRU]\ncell = "gru"\ndraws = 2\nvary = ["gain"]\narms = ["none"]\n\n[arms.none]'
    seconds = "[seconds.xor]\nleaky = [2e-3, 4e-3]\nGRU = [2e-3, 0]"
    protocol.write_text(TINY.replace("[arms.none]", more).replace("[seconds.xor]", seconds))
    trial = read_trial(protocol)
    base = {
        "failure": None,
        "seconds": {"training": 1.0},
        "curve": [1.0],
        "accuracies": [0.5],
        "epochs": 4,
        "loss": 1.0,
    }
    runs = [{**run._asdict(), **base, "accuracy": 0.5} for run in trial.runs()]
    text = trial_table.markdown(trial, runs)
    assert text.count("| 1 | 1 | no difference shown") == 2 and "| GRU |" not in text.partition("p (Holm)")[2][:400]
    some = [run for run in runs if run["network"] != "leaky"]
    text = trial_table.markdown(trial, some)
    assert "| tanh | 0 of 2 | 0 of 2 |" in text and "| 1 |  | pairs of other networks are missing |" in text


def test_what_could_have_been_shown_counts_the_family():
    """Of 96 pairs, 6 on one side have p = 0.031; with six networks left, p must be below 0.05 / 6, so 8 are needed."""
    nothing = statistics.Paired(96, 0, 0, 0, 0)
    assert trial_table.verdict(nothing, 1.0, 96).endswith("(one of 0.06 could have been)")
    assert trial_table.verdict(nothing, 1.0, 96, family=6).endswith("(one of 0.08 could have been)")


def test_penalties_do_not_choose_the_best_draw(protocol):
    """Their weight is drawn, so a loss with a penalty is no measure: the accuracy in training takes its place."""
    more = 'penalty = "orthogonality"\nvary = ["weight", '
    text = TINY.replace("vary = [", more, 1).replace("[draws]", "[draws]\nweight = [0.1, 1.0]")
    protocol.write_text(text)
    trial = read_trial(protocol)
    base = {"failure": None, "epochs": 4, "accuracy": 0.5, "loss": 1.0}
    ends = {1: {"curve": [0.2], "accuracies": [0.5]}, 2: {"curve": [3.0], "accuracies": [0.9]}}
    runs = [{**run._asdict(), **base, **ends[run.draw]} for run in trial.runs()]
    assert {run.draw for run in trial_runs.best_runs(trial, runs)} == {2}
    protocol.write_text(text.replace('vary = ["weight", ', "vary = ["))
    with pytest.raises(ValueError, match="vary of tanh must include weight, that of its penalty"):
        read_trial(protocol)


def test_curves_are_drawn_against_the_cost_of_the_protocol(protocol):
    protocol.write_text(TINY.replace("epochs = 4", "epochs = 120"))
    trial = read_trial(protocol)
    np.testing.assert_allclose(curves.times(trial, "xor", "tanh", "none"), [0.1, 0.2, 0.252])  # 126 epochs of 2 ms
    np.testing.assert_allclose(curves.times(trial, "xor", "tanh", "flossing"), [0.112, 0.212, 0.252])  # 3 of 4 ms first
    found = [{"accuracies": [0.5, 0.6, 0.7]}, {"accuracies": [0.9]}]  # the second stopped early
    np.testing.assert_allclose(curves.quartiles(found, "accuracy", 3)[1], [0.7, 0.75, 0.8])
