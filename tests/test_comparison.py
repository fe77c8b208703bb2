"""The comparison: stored results of a run, the table made from them, and that the two agree."""

import dataclasses
import json
import subprocess
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import flossing as fl
from flossing_lab import statistics
from flossing_lab.comparison import __main__ as program, runs, solved, table
from flossing_lab.comparison.architectures import ARCHITECTURES
from flossing_lab.comparison.protocol import TaskSetting
from flossing_lab.comparison.protocols import PROTOCOLS
from flossing_lab.comparison.writing import WRITING

COMMITTED = Path(__file__).parents[1] / "comparison"
QUICK = ARCHITECTURES.quick()
TASKS, NETWORKS, SEEDS = ARCHITECTURES.tasks, ARCHITECTURES.networks, ARCHITECTURES.seeds


@pytest.fixture(scope="module")
def tiny():
    """A run in each condition."""
    with jax.numpy_dtype_promotion("standard"):
        return {arm: runs.run(QUICK, "adding", "vanilla", arm, 3) for arm in QUICK.arms}


def test_conditions_differ_by_flossing_alone(tiny):
    """Both conditions start from the same network and exponents; flossing moves these towards 0 before training."""
    without, flossed = tiny["without"], tiny["with"]
    start, after = flossed["exponents"]["start"], flossed["exponents"]["flossed"]
    assert without["exponents"]["start"] == start
    assert "flossed" not in without["exponents"]
    assert sum(np.square(after)) < sum(np.square(start))
    assert without["seconds"]["flossing"] == 0 < flossed["seconds"]["flossing"]
    assert np.isfinite([*without["curve"], *flossed["curve"], without["loss"], flossed["loss"]]).all()
    assert without["loss"] != flossed["loss"]
    assert without["failure"] is None


@pytest.mark.parametrize(("protocol", "name"), [(p, name) for p in PROTOCOLS for name in PROTOCOLS[p].tasks])
def test_every_network_fits_every_task(protocol, name):
    protocol = PROTOCOLS[protocol].quick()
    task = protocol.tasks[name].make()
    data = jax.eval_shape(lambda: runs.test_data(task, protocol.settings))
    for kind in protocol.networks.values():

        def outcome(key, data, make=kind.make):
            network = fl.cells.Network(make(5, task.channels, key=key), task.outputs, key=key)
            return runs.Loss(task)(network, data)

        loss, others = eqx.filter_eval_shape(outcome, jax.random.key(0), data)
        assert loss.shape == others["accuracy"].shape == ()


def test_the_loss_is_the_mean_over_sequences():
    task = fl.tasks.CopyMemory(delay=3)
    network = fl.cells.Network(NETWORKS["GRU"].make(5, 10, key=jax.random.key(0)), 9, key=jax.random.key(1))
    batch = runs.Batch(task, 3)(jax.random.key(2))
    loss, others = eqx.filter_jit(runs.Loss(task))(network, batch)
    each = [fl.tasks.Trial(*(array[i] for array in batch)) for i in range(3)]
    score = eqx.filter_jit(lambda network, sequence: task.score(network.outputs(sequence.inputs), sequence))
    scores = [score(network, sequence) for sequence in each]
    assert np.allclose((loss, others["accuracy"]), np.mean(scores, axis=0), rtol=1e-12)


def record(task="digits", network="LSTM", condition="without", seed=1, accuracy=0.5, **more):
    ends = {"start": [-0.1, -1.0], "end": [0.0, -2.0]} | ({"flossed": [0.0, -0.02]} if condition == "with" else {})
    seconds = {"training": 3.0, "flossing": 0.0 if condition == "without" else 5.0}
    return {
        "task": task, "network": network, "condition": condition, "seed": seed, "k": 16, "loss": 1 - accuracy,
        "accuracy": accuracy, "seconds": seconds, "exponents": ends, "curve": [], "failure": None,
    } | more  # fmt: skip


def test_the_table_renders():
    """Seeds 1 to 4: 0.1 0.2 0.3 0.4 against 0.4 0.2 0.1 and a failure: better once."""
    found = [record(seed=s, accuracy=s / 10) for s in SEEDS[:4]]
    found += [record(seed=s, condition="with", accuracy=a) for s, a in zip(SEEDS, (0.4, 0.2, 0.1), strict=False)]
    found += [record(seed=4, condition="with", failure="training epoch 3: loss is nan"), record(network="GRU")]
    found += [record(seed=101), record(seed=101, condition="with")]  # pilots
    text = table.markdown(ARCHITECTURES, found)
    assert "### Digits" in text
    assert "0.1 by chance" in text
    assert "GRU" not in text
    row = (
        "LSTM | 0.250 (0.100 to 0.400) | 0.200 (0.100 to 0.400), 1 failed | 1 of 4 | -0.10, -1.00 | 0.00, -0.02 | 3, 8"
    )
    assert f"| {row} |" in text
    assert "### Adding" not in text
    assert table.markdown(ARCHITECTURES, []) == ""
    pair = [record("adding", accuracy=0.9), record("adding", condition="with", accuracy=0.8)]
    adding = table.markdown(ARCHITECTURES, pair)
    assert "0.167 without memory" in adding
    assert "| 0.100 (0.100 to 0.100) | 0.200 (0.200 to 0.200) | 0 of 1 |" in adding


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_table_is_what_the_results_say(protocol):
    results = program.read_results(COMMITTED / protocol.folder)
    if not results["runs"]:
        pytest.skip("not run yet")
    assert (COMMITTED / protocol.folder / "table.md").read_text("utf-8") == program.page(protocol, results)
    assert {run["seed"] for run in results["runs"]} <= set(protocol.seeds)


def test_the_intervals_of_rates():
    """Wilson's interval of 9 of 10 and of 0 of 10, as in any table of it."""
    np.testing.assert_allclose(statistics.wilson(9, 10), (0.5958, 0.9821), atol=1e-4)
    np.testing.assert_allclose(statistics.wilson(0, 10), (0.0, 0.2775), atol=1e-4)


def test_the_table_of_solved_networks():
    """Nine of ten at 0.97, one failed: the rate with its interval, the median, epochs of the solved, seconds."""
    runs = [
        record("xor", "GRU", "both", seed, accuracy=0.97)
        | {"epochs": 100 * seed, "seconds": {"flossing": 5.0, "training": 3.0}}
        for seed in range(1, 10)
    ]
    runs.append(runs[0] | {"seed": 10, "failure": "training epoch 3: loss is nan"})
    text = solved.markdown(WRITING, runs)
    assert "| GRU |  |  |  |  | **9 of 10** (0.60 to 0.98), 0.970, 500 epochs, 5 + 3 s, 1 failed |" in text
    assert "tanh" not in text
    better_is_less = TaskSetting(lambda: None, "copy", "loss", 1.0, solved=0.1)
    assert solved.is_solved(record(accuracy=0.95), better_is_less) and not solved.is_solved(
        record(accuracy=0.8), better_is_less
    )


def test_a_protocol_records_what_decides_a_run():
    """Another loss, step size or task makes other records; equal settings in two processes make equal ones."""
    arms = {name: json.dumps(WRITING.recorded("xor", "GRU", name)) for name in WRITING.arms}
    assert len(set(arms.values())) == len(arms)
    assert "KeepAndWrite(weight=0.1, memory=Memory(noise=0.03, samples=8))" in arms["both"]
    assert '"loss": "exponents"' in arms["exponents"]
    networks = {json.dumps(WRITING.recorded("xor", name, "none")) for name in WRITING.networks}
    assert len(networks) == len(WRITING.networks)
    assert WRITING.recorded("xor", "LSTM", "none")["network"].endswith("forget_bias=1.0, horizon=None)")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder for runs; the program knows one network only."""
    one = dataclasses.replace(ARCHITECTURES, networks={"vanilla": NETWORKS["vanilla"]})
    monkeypatch.setattr(program, "PROTOCOLS", {"architectures": one})
    return tmp_path / "runs"


@pytest.mark.slow
def test_the_program_makes_what_is_not_there(folder, monkeypatch, capsys, tiny):
    arguments = ["--quick", "--only", "adding", "--seeds", "3", "--out", str(folder.parent)]
    assert program.main(arguments) == 0
    folder = folder.parent / "quick" / "runs"
    made = [json.loads((folder / f"adding-vanilla-{c}-3.json").read_text()) for c in ARCHITECTURES.arms]
    assert all(run.keys() == tiny[run["condition"]].keys() and run["failure"] is None for run in made)
    assert made[0]["exponents"]["start"] == made[1]["exponents"]["start"]
    assert not (folder.parent / "table.md").exists()

    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", "much\nno luck"))
    assert program.main(arguments) == 0  # all there: no process is started
    (folder / "adding-vanilla-with-3.json").write_text("{")
    assert program.main(arguments) == 1
    assert "adding vanilla with: no luck" in capsys.readouterr().out


def test_results_are_collected(folder, capsys):
    folder.mkdir()
    for condition in ARCHITECTURES.arms:
        settings = ARCHITECTURES.recorded("xor", "vanilla", condition)
        for seed, kept in ((1, settings), (2, settings | {"units": 63})):
            run = record("xor", "vanilla", condition, seed) | {"format": runs.FORMAT, "settings": kept}
            runs.run_file(folder, "xor", "vanilla", condition, seed).write_text(json.dumps(run))
    program.write_table(ARCHITECTURES, folder.parent, program.Console())
    results = program.read_results(folder.parent)
    assert [(run["condition"], run["seed"]) for run in results["runs"]] == [("without", 1), ("with", 1)]
    assert results["settings"]["units"] == 64
    assert "TemporalXOR" in results["tasks"]["xor"]
    assert "| vanilla | 0.500 (0.500 to 0.500) |" in (folder.parent / "table.md").read_text("utf-8")
    assert (folder.parent / "table.md").read_text("utf-8") == program.page(ARCHITECTURES, results)


def test_committed_runs_are_not_made_again(tmp_path):
    """Runs of results.json come back as files; those of other settings do not."""
    results = program.read_results(COMMITTED / WRITING.folder)
    (tmp_path / "runs").mkdir()
    (tmp_path / "results.json").write_text(json.dumps(results))
    program.restore(WRITING, tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == len(results["runs"]) > 0
    run = results["runs"][0]
    file = runs.run_file(tmp_path / "runs", run["task"], run["network"], run["condition"], run["seed"])
    assert runs.is_done(file, WRITING, run["task"], run["network"], run["condition"])
    before = file.read_text()
    program.write_table(WRITING, tmp_path, program.Console())
    assert program.read_results(tmp_path)["runs"] == results["runs"]
    program.restore(WRITING, tmp_path)
    assert file.read_text() == before
    other = dataclasses.replace(WRITING, settings=dataclasses.replace(WRITING.settings, epochs=7))
    (tmp_path / "other" / "runs").mkdir(parents=True)
    (tmp_path / "other" / "results.json").write_text(json.dumps(results))
    program.restore(other, tmp_path / "other")
    assert not list((tmp_path / "other" / "runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "xor,tea"], "only must name some of copy,adding,xor,digits,permuted, got 'tea'"),
        (["--seeds", "1,two"], "seeds must be numbers such as 1,2,3, got '1,two'"),
        (["--arms", "within"], "arms must name some of without,with, got 'within'"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        program.main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_the_best_draws_follow_from_the_results():
    """Those of the kinds of networks whose draws are complete."""
    from flossing_lab.comparison.draws import CHOSEN, DRAWS, best

    results = json.loads((Path(__file__).parent.parent / "comparison" / "draws" / "results.json").read_text())
    assert CHOSEN
    for (network, arm), draw in CHOSEN.items():
        runs = [run for run in results["runs"] if run["network"].startswith(network) and run["condition"] == arm]
        assert len(runs) == 24 * len(DRAWS.seeds)
        assert best(network, arm, runs) == draw
