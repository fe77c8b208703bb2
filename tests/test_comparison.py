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
from flossing_lab.comparison import __main__ as program, runs, solved
from flossing_lab.comparison.protocol import TaskSetting
from flossing_lab.comparison.protocols import PROTOCOLS
from flossing_lab.comparison.writing import WRITING

COMMITTED = Path(__file__).parents[1] / "comparison"
QUICK = WRITING.quick()
ARMS = ("none", "both")


@pytest.fixture(scope="module")
def tiny():
    """A run in each of two arms."""
    with jax.numpy_dtype_promotion("standard"):
        return {arm: runs.run(QUICK, "xor", "tanh", arm, 3) for arm in ARMS}


def test_arms_differ_by_flossing_alone(tiny):
    """Both arms start from the same network and exponents; flossing moves these towards 0 before training."""
    without, flossed = tiny["none"], tiny["both"]
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
    network = fl.cells.Network(fl.cells.GRU(5, 10, key=jax.random.key(0)), 9, key=jax.random.key(1))
    batch = runs.Batch(task, 3)(jax.random.key(2))
    loss, others = eqx.filter_jit(runs.Loss(task))(network, batch)
    each = [fl.tasks.Trial(*(array[i] for array in batch)) for i in range(3)]
    score = eqx.filter_jit(lambda network, sequence: task.score(network.outputs(sequence.inputs), sequence))
    scores = [score(network, sequence) for sequence in each]
    assert np.allclose((loss, others["accuracy"]), np.mean(scores, axis=0), rtol=1e-12)


def record(task="digits", network="LSTM", condition="none", seed=1, accuracy=0.5, **more):
    ends = {"start": [-0.1, -1.0], "end": [0.0, -2.0]} | ({"flossed": [0.0, -0.02]} if condition != "none" else {})
    seconds = {"training": 3.0, "flossing": 0.0 if condition == "none" else 5.0}
    return {
        "task": task, "network": network, "condition": condition, "seed": seed, "k": 16, "loss": 1 - accuracy,
        "accuracy": accuracy, "seconds": seconds, "exponents": ends, "curve": [], "failure": None,
    } | more  # fmt: skip


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
    better_is_less = TaskSetting(lambda: None, "copy", "loss", solved=0.1)
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
    one = dataclasses.replace(
        WRITING,
        folder="",
        networks={"tanh": WRITING.networks["tanh"]},
        arms={name: WRITING.arms[name] for name in ARMS},
    )
    monkeypatch.setattr(program, "PROTOCOLS", {"writing": one})
    return tmp_path / "runs"


@pytest.mark.slow
def test_the_program_makes_what_is_not_there(folder, monkeypatch, capsys, tiny):
    arguments = ["writing", "--quick", "--arms", "none,both", "--seeds", "3", "--out", str(folder.parent)]
    assert program.main(arguments) == 0
    folder = folder.parent / "quick" / "runs"
    made = [json.loads((folder / f"xor-tanh-{arm}-3.json").read_text()) for arm in ARMS]
    assert all(run.keys() == tiny[run["condition"]].keys() and run["failure"] is None for run in made)
    assert made[0]["exponents"]["start"] == made[1]["exponents"]["start"]
    assert not (folder.parent / "table.md").exists()

    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", "much\nno luck"))
    assert program.main(arguments) == 0  # all there: no process is started
    (folder / "xor-tanh-both-3.json").write_text("{")
    assert program.main(arguments) == 1
    assert "xor tanh both: no luck" in capsys.readouterr().out


def test_results_are_collected(folder, capsys):
    folder.mkdir()
    one = program.PROTOCOLS["writing"]
    for condition in ARMS:
        settings = one.recorded("xor", "tanh", condition)
        for seed, kept in ((1, settings), (2, settings | {"units": 63})):
            run = record("xor", "tanh", condition, seed) | {"format": runs.FORMAT, "settings": kept, "epochs": 3000}
            runs.run_file(folder, "xor", "tanh", condition, seed).write_text(json.dumps(run))
    program.write_table(one, folder.parent, program.Console())
    results = program.read_results(folder.parent)
    assert [(run["condition"], run["seed"]) for run in results["runs"]] == [("none", 1), ("both", 1)]
    assert results["settings"]["units"] == 64
    assert "TemporalXOR" in results["tasks"]["xor"]
    assert "| tanh | **0 of 1** (0.00 to 0.79), 0.500, 0 + 3 s | **0 of 1** (0.00 to 0.79), 0.500, 5 + 3 s |" in (
        folder.parent / "table.md"
    ).read_text("utf-8")
    assert (folder.parent / "table.md").read_text("utf-8") == program.page(one, results)


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
        (["--only", "xor,tea"], "only must name some of xor, got 'tea'"),
        (["--seeds", "1,two"], "seeds must be numbers such as 1,2,3, got '1,two'"),
        (["--arms", "within"], "arms must name some of none,exponents,exponents-3e-3,memory,both, got 'within'"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        program.main(["writing", *arguments])
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
