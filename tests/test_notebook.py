"""Runs from a notebook: the same training as `flossing.train`, in a directory that continues to the bit."""

import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import flossing as fl
from flossing._schedule import as_schedule
from flossing_lab import notebook
from flossing_lab.cli import main
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.sweeps.dataset import collect
from tests.helpers import OwnSchedule

pytestmark = pytest.mark.usefixtures("optax_promotion")

TASK = fl.tasks.TemporalXOR(steps=12, delay=2)
OPTIMISER = optax.adam(1e-2)
PREFLOSSING = fl.schedules.preflossing(4)


def batch(key):
    return jax.vmap(TASK)(jax.random.split(key, 2))


def loss(network, batch):
    score = jax.vmap(TASK.score)(jax.vmap(network.outputs)(batch.inputs), batch)
    return score.loss.mean(), {"accuracy": score.accuracy.mean(), "doubled": 2 * score.loss.mean()}


def inputs(key):
    return TASK(key).inputs


ARGUMENTS = {"loss": loss, "batch": batch, "optimiser": OPTIMISER, "chunk": 3, "progress": False}


@pytest.fixture(scope="module")
def network():
    return fl.cells.Network(fl.cells.VanillaRNN(6, key=jax.random.key(0)), outputs=1, key=jax.random.key(1))


@pytest.fixture(scope="module")
def flossing(network):
    return fl.Flossing(network, inputs, state=network.zeros(), k=4, window=8, interval=1)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves((state.model, state.opt_state, state.measures))]


def test_a_run_in_two_parts_is_train_to_the_bit(network, flossing, tmp_path):
    schedule = fl.schedules.sum_schedules(PREFLOSSING, fl.schedules.interflossing(2, every=6))
    whole = fl.init_training(network, OPTIMISER, flossing)
    arguments = {name: value for name, value in ARGUMENTS.items() if name != "progress"}
    chunks = list(fl.train(whole, epochs=9, flossing=flossing, schedule=schedule, **arguments))

    arguments = ARGUMENTS | {"flossing": flossing, "schedule": schedule, "out": tmp_path / "run"}
    first = notebook.train(network, epochs=6, **arguments)
    second = notebook.train(network, epochs=9, **arguments)
    again = notebook.train(network, epochs=9, **arguments)

    assert (first.epoch, second.epoch, second.flossing_epoch) == (6, 9, 6)
    for one, two, three in zip(leaves(chunks[-1].state), leaves(second), leaves(again), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(two, three)
    run = RunDirectory(tmp_path / "run")
    recorded = np.concatenate([done.metrics["loss"] for done in chunks if done.kind == "training"])
    np.testing.assert_array_equal(run.metrics("training")["loss"], recorded)
    assert run.info["status"] == "finished" and len(run.info["resumed"]) == 1
    assert set(run.info["spectra"]) == {"start", "after_preflossing", "end"}
    assert run.config.condition == "before_and_during"


def test_report_and_collect_read_the_runs(network, flossing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        for schedule in (None, PREFLOSSING):
            flosses = {} if schedule is None else {"flossing": flossing, "schedule": schedule}
            out, settings = f"runs/{seed}-{schedule is None}", {"delay": 2, "seed": seed}
            notebook.train(network, out=out, epochs=3, title="<XOR>", settings=settings, **flosses, **ARGUMENTS)
    main(["report", "runs"])
    page = (tmp_path / "report.html").read_text()
    assert "&lt;XOR&gt;" in page and "<XOR>" not in page and "2 seeds" in page
    dataset = collect("runs", "collected.zarr")
    assert dict(dataset.sizes)["seed"] == dict(dataset.sizes)["condition"] == 2
    np.testing.assert_allclose(dataset["doubled"], 2 * dataset["loss"])
    capsys.readouterr()
    for command in ("spectrum", "diagnose"):
        with pytest.raises(SystemExit, match="2"):
            main([command, "--run", "runs/1-True"])
        assert "its network and its task are code in the notebook" in " ".join(capsys.readouterr().err.split())


def test_several_sequences_a_flossing_epoch_are_stored_as_their_mean(network, tmp_path):
    three = jax.vmap(inputs)(jax.random.split(jax.random.key(5), 3))
    flossing = fl.Flossing(network, three, state=network.zeros(), batched=True, k=4, window=8, interval=1)
    options = {"epochs": 2, "flossing": flossing, "schedule": PREFLOSSING}
    plain = {name: value for name, value in ARGUMENTS.items() if name != "progress"}
    chunks = list(fl.train(fl.init_training(network, OPTIMISER, flossing), **plain, **options))
    notebook.train(network, out=tmp_path, **(ARGUMENTS | {"progress": True}), **options)
    run = RunDirectory(tmp_path)
    assert run.metrics("flossing")["exponents"].shape == (4, 4)
    assert run.metrics("training")["measured_exponents"].shape == (1, 4)
    found = np.concatenate([done.metrics["exponents"] for done in chunks if done.kind == "flossing"])
    np.testing.assert_array_equal(run.metrics("flossing")["exponents"], found.mean(1))
    last = chunks[-1].state.measures["exponents"].mean(0)
    np.testing.assert_array_equal(run.metrics("training")["measured_exponents"][-1], last)


@pytest.mark.parametrize(
    ("schedule", "condition"),
    [
        (None, "none"),
        (OwnSchedule(4), "adaptive"),
        (PREFLOSSING, "before"),
        (fl.schedules.interflossing(2, every=2), "during"),
        (fl.schedules.sum_schedules(PREFLOSSING, fl.schedules.interflossing(2, every=2)), "before_and_during"),
        (fl.schedules.rule(lambda epoch, measures: 1, every=2), "adaptive"),
        (fl.schedules.rule(lambda epoch, measures: 1, every=20, preflossing=3), "adaptive"),
    ],
)
def test_the_condition_follows_from_the_schedule(schedule, condition):
    from flossing_lab.notebook.training import _condition

    assert _condition(as_schedule(schedule, 100)) == condition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"delay": 3}}, r"out must not hold a run of another configuration, .*delay=2 \(not 3\)"),
        ({"title": "another"}, r"task='training' \(not 'another'\)"),
        ({"epochs": 2}, r"epochs=3 \(not 2\)"),
        ({"settings": {"epochs": 3}}, "settings must not be named checkpoint_every, .*, got epochs$"),
        ({"settings": {"condition": "none"}}, "got condition; condition follows from the schedule, leave it out"),
        ({"settings": {"delay": [3]}}, r"delay must be .*, got delay=\[3\]"),
        ({"settings": {"seed": "one"}}, "seed must be a valid integer, got seed='one'"),
        ({"epochs": 0}, "epochs must be greater than or equal to 1, got epochs=0"),
    ],
)
def test_bad_input_changes_nothing(network, tmp_path, change, message):
    arguments = {"out": tmp_path, "epochs": 3, "settings": {"delay": 2}} | ARGUMENTS
    notebook.train(network, **arguments)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        notebook.train(network, **(arguments | change))
    assert (tmp_path / "run.json").read_bytes() == before
    assert json.loads(before)["status"] == "finished"


def test_other_code_is_noticed(network, tmp_path):
    arguments = ARGUMENTS | {"out": tmp_path, "epochs": 3}
    notebook.train(network, **arguments)
    notebook.train(network, **arguments)  # the same code, warnings are errors here

    def another(network, batch):
        value, metrics = loss(network, batch)
        return 2 * value, metrics

    for change in ({"optimiser": optax.adam(2e-2)}, {"loss": another}, {"batch": lambda key: batch(key)}):
        with pytest.warns(UserWarning, match="out should hold a run of the same code"):
            notebook.train(network, **(arguments | change))
    with pytest.warns(UserWarning, match="same code"):
        notebook.train(jax.tree_util.tree_map(lambda leaf: 2 * leaf, network), **arguments)


def test_a_fingerprint_is_the_same_in_every_process():
    """A function by its code and what it closes over, not by its address."""
    code = "import optax; from flossing_lab.notebook.code import fingerprint as f;"
    code += "print(f(optax.adam(1e-2), lambda x: x + 1, {1, 2}), f(optax.adam(1e-3), lambda x: x + 1, {1, 2}))"
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)]
    assert found[0] == found[1] and len(set(found[0].split())) == 2


def test_a_run_of_another_model_is_refused_and_kept(network, tmp_path):
    arguments = ARGUMENTS | {"out": tmp_path / "run"}
    notebook.train(network, epochs=6, **arguments)
    wider = fl.cells.Network(fl.cells.VanillaRNN(7, key=jax.random.key(0)), outputs=1, key=jax.random.key(1))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.npz")}
    with (
        pytest.warns(UserWarning, match="out should hold a run of the same code"),
        pytest.raises(ValueError, match="out must hold a run of this model, got .*; overwrite replaces it"),
    ):
        notebook.train(wider, epochs=9, **arguments)
    assert before and {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.npz")} == before


def test_blocks_that_begin_after_the_first_part_do_not_make_another_run(network, flossing, tmp_path):
    schedule = fl.schedules.interflossing(2, every=6, blocks=None)
    arguments = ARGUMENTS | {"flossing": flossing, "schedule": schedule, "out": tmp_path / "run"}
    assert notebook.train(network, epochs=4, **arguments).flossing_epoch == 0
    assert notebook.train(network, epochs=9, **arguments).flossing_epoch == 2
    assert RunDirectory(tmp_path / "run").config.condition == "during"


def test_a_longer_run_with_other_settings_is_not_said_to_be_lengthened(network, tmp_path):
    arguments = ARGUMENTS | {"out": tmp_path / "run"}
    notebook.train(network, epochs=3, settings={"delay": 2}, **arguments)
    with pytest.raises(ValueError, match="out must not hold a run of another configuration, .* overwrite replaces it$"):
        notebook.train(network, epochs=6, settings={"delay": 3}, **arguments)
