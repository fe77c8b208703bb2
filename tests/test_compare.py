"""`flossing compare`: protocols, runs that continue, the tests in the tables, and bad input."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, rankdata

from flossing_lab import statistics
from flossing_lab.cli import main
from flossing_lab.comparison import contenders, paired, runs as trial_runs, table as trial_table
from flossing_lab.comparison.protocol import TrialRun, digest, read_trial

COMMITTED = Path(__file__).parents[1] / "comparison"
HEAD = """
title = "Tiny"

[settings]
units = 6
share = 0.5
batch = 2
test = 8
again = 2

[tasks.xor]
task = "TemporalXOR"
title = "XOR"
options = { steps = 12, delay = 2 }
measure = "accuracy"
trivial = 0.5
solved = 0.95
epochs = 4

"""
TINY = (
    HEAD
    + """[draws]
rate = [1e-3, 3e-3]
gain = { low = 0.5, high = 2.0 }

[networks.tanh]
cell = "tanh"
draws = 2
vary = ["rate", "gain"]

[arms.none]
[arms.flossing]
before = 3

[seconds.xor]
tanh = [2e-3, 4e-3]
"""
)


@pytest.fixture
def protocol(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


def test_the_arms_cost_the_same_and_share_all_draws(protocol):
    trial = read_trial(protocol)
    assert [trial.epochs("xor", "tanh", arm) for arm in trial.arms] == [10, 4]  # 3 epochs of 4 ms are 6 of 2 ms
    assert trial.drawn("tanh") == read_trial(protocol).drawn("tanh")
    names = [run.name for run in trial.runs()]
    assert names == ["xor-tanh-001-none", "xor-tanh-002-none", "xor-tanh-001-flossing", "xor-tanh-002-flossing"]
    recorded = [trial.recorded(run) for run in trial.runs()]
    assert recorded[0]["drawn"] == recorded[2]["drawn"] != recorded[1]["drawn"]


def test_draws_cover_their_ranges():
    trial = read_trial(COMMITTED / "short.toml")
    gains = np.log([drawn["gain"] for name in trial.networks for drawn in trial.drawn(name)])
    assert len(gains) == 64 + 5 * 32
    assert np.log(0.5) <= gains.min() < np.log(0.6) and np.log(1.7) < gains.max() <= np.log(2)
    assert abs(gains.mean()) < 4 * 0.4 / math.sqrt(len(gains))
    assert {drawn["rate"] for drawn in trial.drawn("tanh")} == {3e-4, 1e-3, 3e-3}


@pytest.mark.usefixtures("optax_promotion")
def test_runs_are_made_once_and_again_elsewhere(protocol, tmp_path, capsys, in_this_process):
    made = in_this_process
    main(["compare", str(protocol), "--workers", "1"])
    assert [len(each) for each in made] == [4, 4]  # all draws, then the best of each arm with two seeds
    out = tmp_path / "tiny"
    runs = trial_runs.read_results(out)
    without, flossed = runs[0], runs[2]
    assert (without["epochs"], flossed["epochs"]) == (10, 4)
    assert without["exponents"]["start"] == flossed["exponents"]["start"] != flossed["exponents"]["flossed"]
    assert "All 8 runs are made." in (out / "table.md").read_text()
    assert all((out / name).stat().st_size > 5000 for name in ("table.png", "curves.png"))

    made.clear()
    shutil.rmtree(out / "runs")  # as after a clone: results.json alone is committed
    main(["compare", str(protocol)])
    assert not made
    assert len(list((out / "runs").glob("*.json"))) == 8

    main(["compare", str(protocol), "--table"])
    assert not made

    before, table = (out / "results.json").read_bytes(), (out / "table.md").read_text()
    protocol.write_text(TINY.replace("epochs = 4", "epochs = 5").replace("solved = 0.95", "solved = 0.0"))
    for more in ([], ["--table"]):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", str(protocol), *more])
        assert "must hold no runs of another protocol" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == before and not made
    assert (out / "table.md").read_text() == table


@pytest.mark.usefixtures("optax_promotion")
def test_a_trial_takes_equal_runs_of_another(protocol, tmp_path, capsys, in_this_process):
    """A third arm beside the two of a trial that is finished: only its runs are made, and only they are written."""
    made = in_this_process
    main(["compare", str(protocol), "--workers", "1"])
    more = tmp_path / "more.toml"
    arm = "[arms.term]\nterm = 0.5\n\n[seconds.xor]"
    more.write_text(TINY.replace('title = "Tiny"', 'title = "More"\nruns_of = "tiny"').replace("[seconds.xor]", arm))
    made.clear()
    main(["compare", str(more), "--workers", "1"])
    assert [{name.split("-")[3] for name in each} for each in made] == [{"term"}, {"term"}]
    own = trial_runs.read_results(tmp_path / "more")
    assert {run["arm"] for run in own} == {"term"} and len(own) == 4
    table = (tmp_path / "more" / "table.md").read_text()
    assert "4 runs, and 8 of tiny, " in table and "All 12 runs are made." in table
    assert "### All draws, term against no flossing" in table

    shutil.rmtree(tmp_path / "more" / "runs")
    made.clear()
    main(["compare", str(more)])
    assert not made and (tmp_path / "more" / "table.md").read_text() == table

    both = tmp_path / "both.toml"
    both.write_text(more.read_text().replace('"tiny"', '["tiny", "more"]'))
    main(["compare", str(both)])
    assert not made and not trial_runs.read_results(tmp_path / "both")
    assert "0 runs, and 12 of tiny and more, " in (tmp_path / "both" / "table.md").read_text()

    shutil.rmtree(tmp_path / "tiny")
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(more), "--table"])
    assert "runs_of must name directories with results.json beside the protocol, got 'tiny'" in capsys.readouterr().err


@pytest.mark.usefixtures("optax_promotion")
def test_an_arm_kept_near_orthogonal_costs_as_much_as_the_others(protocol, tmp_path, capsys, in_this_process):
    """It trains with a penalty instead of flossing; its recorded loss is that of the task alone."""
    arm = "[arms.orthogonal]\northogonality = 1e6\n\n[seconds.xor]"
    protocol.write_text(TINY.replace("[seconds.xor]", arm))
    main(["compare", str(protocol)])
    runs = {(run["draw"], run["arm"]): run for run in trial_runs.read_results(tmp_path / "tiny") if not run["seed"]}
    for draw in (1, 2):
        plain, kept = runs[draw, "none"], runs[draw, "orthogonal"]
        assert plain["epochs"] == kept["epochs"] == 4 + 3 * 2
        assert plain["loss"] != kept["loss"]
        assert max(kept["curve"]) < 2
    assert "### All draws, orthogonal against no flossing" in (tmp_path / "tiny" / "table.md").read_text()

    for change, message in (
        (('cell = "tanh"', 'cell = "gru"'), "orthogonality needs a cell with recurrent weights J, got tanh with gru"),
        (
            (
                'vary = ["rate", "gain"]',
                'vary = ["rate", "weight"]\npenalty = "vanishing"\nranges = { weight = [1.0] }',
            ),
            "arms of tanh, which has a penalty, must be without orthogonality",
        ),
    ):
        other = tmp_path / "other.toml"
        other.write_text(protocol.read_text().replace(*change))
        with pytest.raises(SystemExit, match="2"):
            main(["compare", str(other)])
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("optax_promotion")
def test_a_longer_task_takes_the_best_draws_of_a_shorter_one(protocol, tmp_path, in_this_process):
    longer = '[tasks.long]\nsettings_of = "xor"\ntask = "TemporalXOR"\ntitle = "long XOR"\nmeasure = "accuracy"\n'
    longer += "options = { steps = 16, delay = 4 }\ntrivial = 0.5\nsolved = 0.95\nepochs = 3\n\n[draws]"
    text = TINY.replace("[draws]", longer) + "\n[seconds.long]\ntanh = [2e-3, 4e-3]\n"
    text = text.replace("solved = 0.95\nepochs = 4", "solved = 0.0\nepochs = 4")  # the shorter task is solved by all
    protocol.write_text(text)
    main(["compare", str(protocol), "--workers", "1"])
    trial, runs = read_trial(protocol), trial_runs.read_results(protocol.with_suffix(""))
    assert sum(run["seed"] == 0 for run in runs) == 4 and len(trial.runs()) == 4  # no draws of the longer task
    best = {(run["task"], run["arm"]): run["draw"] for run in runs if run["seed"]}
    assert all(best["xor", arm] == best["long", arm] for arm in trial.arms)
    assert sum(run["task"] == "long" for run in runs) == 4
    found = (protocol.with_suffix("") / "table.md").read_text()
    assert (
        "All 12 runs are made." in found
        and "| draws that solve (p, McNemar) | XOR |\n" in found
        and "| long XOR | tanh |" in found
    )

    unsolved = text.replace("solved = 0.0", "solved = 1.0")
    protocol.write_text(unsolved)
    main(["compare", str(protocol), "--workers", "1", "--out", str(tmp_path / "unsolved")])
    assert {run["task"] for run in trial_runs.read_results(tmp_path / "unsolved")} == {"xor"}  # nothing to run longer

    text = unsolved.replace('title = "Tiny"', 'title = "Tiny"\nreference = ["tanh", "flossing"]')
    protocol.write_text(text)
    trial = read_trial(protocol)
    few = [{**run, "accuracy": 1.0} if (run["arm"], run["seed"]) == ("flossing", 1) else run for run in runs]
    long = contenders.markdown(trial, few).partition("### long XOR")[2]
    assert (
        "Only those whose best draw solves XOR" in long and "tanh, flossing" in long and "tanh, no flossing" not in long
    )

    some = [run for run in few if (run["arm"], run["seed"]) != ("none", 2)]  # a seed of another contender is missing
    for known, remark in ((runs, "tanh, flossing is not among them"), (some, "Only those whose")):
        long = contenders.markdown(trial, known).partition("### long XOR")[2]
        assert remark in long and "(p = " not in long

    alone = [run for run in few if (run["task"], run["arm"]) != ("long", "none")]
    table = trial_table.markdown(trial.model_copy(update={"reference": None}), alone)
    (row,) = [line for line in table.splitlines() if line.startswith("| long XOR | tanh |")]
    assert row.startswith("| long XOR | tanh |  | ") and row.endswith(" |  |")

    protocol.write_text(text.replace("again = 2", "again = 0"))
    with pytest.raises(ValueError, match="again must be at least 1 for settings_of, got again=0"):
        read_trial(protocol)
    protocol.write_text(text.replace('settings_of = "xor"', 'settings_of = "long"'))
    with pytest.raises(ValueError, match=r"settings_of of long must be a task with draws \(xor\), got 'long'"):
        read_trial(protocol)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "tanh = [2e-3",
            "gru = [2e-3",
            "seconds.xor must hold two numbers for tanh, got none: measure them with",
        ),
        (
            '"gain"]',
            '"gate"]',
            "networks.tanh.vary must be names of [draws] or its own ranges (rate, gain), got",
        ),
        (
            "low = 0.5",
            "low = -0.5",
            "draws.gain must be a list of values or { low, high } with 0 < low <= high, got {'low': -0.5",
        ),
        ("low = 0.5", 'low = "a"', "draws.gain must be a list of values or { low, high } with 0 < low <= high, got "),
        ("high = 2.0", "high = inf", "draws.gain must be a list of values or { low, high } with 0 < low <= high, got "),
        ("draws = 2", "draws = -1", "networks.tanh.draws must be greater than or equal to 0, got -1"),
        ("draws = 2", 'draws = "2"', "networks.tanh.draws must be a valid integer, got '2'"),
        ("draws = 2", "drws = 2", "networks.tanh.drws must not be given; did you mean draws?"),
        (
            "before = 3",
            "flossings = 3",
            "arms.flossing.flossings must not be given; legal are before, loss, rate",
        ),
        ('vary = ["rate", "gain"]', 'vary = "rate"', "networks.tanh.vary must be a list, got 'rate'"),
        ("[2e-3, 4e-3]", "[1.0, 2.0, 3.0]", "seconds.xor.tanh"),
        ('title = "Tiny"', "", "title must be given"),
        ('title = "Tiny"', "title = ", "protocol must be a TOML file"),
        ('cell = "tanh"', 'cell = "tonh"', "networks.tanh: cell must be one of tanh, leaky"),
        ('task = "TemporalXOR"', 'task = "XOR"', "tasks.xor: task must be one of DelayedCopy, SpatialXOR"),
        (
            "[arms.none]",
            '[networks."a/b"]\ncell = "tanh"\ndraws = 1\n\n[arms.none]',
            "must be letters, digits, spaces and .,()+-, got 'a/b'",
        ),
        (
            'vary = ["rate", "gain"]',
            'vary = ["gain"]\narms = ["nome"]',
            "arms of tanh must be among none, flossing, got 'nome'",
        ),
        ("share = 0.5", "share = 1.5", "settings.share must be less than or equal to 1, got 1.5"),
        (
            "[arms.none]",
            "[arms.a]\n[arms.b]\n[arms.c]\n[arms.none]",
            "arms must be at most 4 without a reference, got 5",
        ),
    ],
)
def test_bad_protocols(protocol, capsys, old, new, message):
    protocol.write_text(TINY.replace(old, new))
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(protocol)])
    error = capsys.readouterr().err
    assert f"{protocol}: " in error and message in error and error.count("\n") == 1, error


def test_a_protocol_that_is_no_file(tmp_path, capsys):
    for place, found in ((tmp_path, "a directory"), (tmp_path / "no.toml", "a path where nothing is")):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", str(place)])
        assert f"{place}: protocol must be a TOML file, got {found}" in capsys.readouterr().err


@pytest.mark.usefixtures("optax_promotion")
def test_forecasts_are_measured(protocol, in_this_process):
    """A run keeps the valid time and three exponents in closed loop; longer valid times solve the task."""
    text = TINY.replace('task = "TemporalXOR"', 'task = "MackeyGlass"').replace(
        "{ steps = 12, delay = 2 }", "{ steps = 40 }"
    )
    text = text.replace('measure = "accuracy"', 'measure = "valid_time"').replace("solved = 0.95", "solved = 1e4")
    protocol.write_text(text)
    main(["compare", str(protocol), "--workers", "1"])
    trial, runs = read_trial(protocol), trial_runs.read_results(protocol.with_suffix(""))
    for run in runs:
        assert 0 <= run["valid_time"] < 200 and len(run["closed_loop"]) == 3
        assert run["closed_loop"][0] < 0.1  # six units after a few epochs
        assert not paired.is_solved(trial, run) and paired.is_solved(trial, run | {"valid_time": 1e4})
    assert (protocol.with_suffix("") / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize("file", sorted(COMMITTED.glob("*.toml")), ids=lambda file: file.stem)
def test_committed_results_are_those_of_their_protocols(file):
    trial, out = read_trial(file), file.with_suffix("")
    runs = trial_runs.read_runs(trial, out)
    for found in runs:
        run = TrialRun(*(found[name] for name in TrialRun._fields))
        assert found["digest"] == digest(trial, run), run.name
    if (out / "results.json").exists():
        assert (out / "table.md").read_text().endswith(trial_table.markdown(trial, runs))
    assert len({tuple(found[name] for name in TrialRun._fields) for found in runs}) == len(runs)


def test_the_rank_sum_test_is_exact_also_with_ties():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=6), rng.normal(0.8, size=7)
    wanted = mannwhitneyu(first, second, method="exact").pvalue
    assert statistics.rank_sum(first.tolist(), second.tolist()) == pytest.approx(wanted)
    tied = [1.0, 1.0, 2.0, -math.inf], [2.0, 2.0, 3.0]
    ranks = rankdata(np.concatenate(tied))
    sums = [sum(each) for each in itertools.combinations(ranks, 4)]
    far = [abs(s - np.mean(sums)) >= abs(ranks[:4].sum() - np.mean(sums)) - 1e-9 for s in sums]
    assert statistics.rank_sum(*tied) == pytest.approx(np.mean(far))


def test_contenders_are_compared_with_the_reference(protocol):
    """The best draw of each, with other seeds, against the best of the reference; a failed run is the worst."""
    text = TINY.replace('title = "Tiny"', 'title = "Tiny"\nreference = ["tanh", "flossing"]').replace(
        "[arms.none]", '[networks.gru]\ncell = "gru"\narms = ["none"]\ndraws = 2\nvary = ["rate"]\n\n[arms.none]'
    )
    text = text.replace("again = 2", "again = 10")
    protocol.write_text(text + "gru = [2e-3, 0]\n")
    trial = read_trial(protocol)
    assert [each.name for each in contenders.contenders(trial)] == ["tanh, no flossing", "tanh, flossing", "gru"]

    def runs(network, arm, values):
        of = {"task": "xor", "network": network, "draw": 1, "arm": arm, "epochs": 4}
        cost = {"seconds": {"flossing": 1.0, "training": 2.0}}
        ended = enumerate(values)
        return [{**of, **cost, "seed": i, "accuracy": v, "failure": "" if v else "broke"} for i, v in ended]

    low, high = np.linspace(0.5, 0.6, 11).tolist(), np.linspace(0.95, 0.99, 11).tolist()
    found = [*runs("tanh", "none", low), *runs("tanh", "flossing", high), *runs("gru", "none", [0.0, *high[1:10], 0.0])]
    lines = {line.split(" | ")[0][2:]: line for line in contenders.markdown(trial, found).splitlines()}
    assert "| 0 of 10 | 0.555 (" in lines["tanh, no flossing"] and "worse (p = 2.2e-05) |" in lines["tanh, no flossing"]
    assert "| 10 of 10 | 0.972 (" in lines["tanh, flossing"] and lines["tanh, flossing"].endswith("| 3 |  |")
    assert (
        "| 9 of 10 | 0.968 (0.954 to 0.982), 1 failed |" in lines["gru"] and "no difference shown (p = " in lines["gru"]
    )
    shares, ended = contenders.draw(trial, found).get_axes()
    assert [line.get_xdata()[0] for line in shares.lines if line.get_marker() == "o"] == [0, 1, 0]  # the draws alone
    medians = [line.get_xdata()[0] for line in ended.lines if line.get_marker() == "|"]
    np.testing.assert_allclose(medians, [0.555, 0.972, 0.968], atol=1e-3)
    assert len(contenders.draw(trial, [run for run in found if not run["seed"]]).get_axes()) == 1
    lost = [*runs("gru", "none", [0.9, *high[1:10], 0.0]), *runs("tanh", "none", low), *runs("tanh", "flossing", low)]
    lines = {line.split(" | ")[0][2:]: line for line in contenders.markdown(trial, lost).splitlines()}
    assert "better (p = " in lines["gru"]  # although one of its runs failed
    missing = [run for run in found if run["network"] != "gru" or run["seed"] < 9]
    assert "(p = " not in contenders.markdown(trial, missing)  # no verdict before all runs are there
    for reference in ('["tanh", "adaptive"]', '["lstm", "none"]'):
        protocol.write_text(protocol.read_text().replace('["tanh", "flossing"]', reference))
        with pytest.raises(ValueError, match="reference must be a network and one of its arms"):
            read_trial(protocol)
        protocol.write_text(text)
