"""Tasks and cells of one's own on the command line: files, packages and entry points; changed files; bad input."""

import importlib.metadata
import json

import numpy as np
import pytest
import xarray

from flossing_lab.cli import main
from flossing_lab.own import experiment
from flossing_lab.own.config import OwnConfig
from flossing_lab.runs import source
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.sweeps.collection import ABSENT, axes_of, labels_of

pytestmark = pytest.mark.usefixtures("optax_promotion")

MINE = """
import equinox as eqx
import jax
import jax.numpy as jnp

import flossing as fl
import neighbour


class FirstBit:
    channels, outputs = 1, 1

    def __init__(self, steps=neighbour.STEPS):
        self.steps = steps

    def __call__(self, key):
        bits = jax.random.bernoulli(key, 0.5, (self.steps,)).astype(float)
        return fl.tasks.Trial(bits[:, None], jnp.full(self.steps, bits[0]), jnp.arange(self.steps) == self.steps - 1)

    def score(self, outputs, trial):
        loss = jax.nn.softplus(outputs[:, 0]) - trial.targets * outputs[:, 0]
        right = ((outputs[:, 0] >= 0) == (trial.targets > 0.5)).astype(loss.dtype)
        return fl.tasks.Score(loss.mean(where=trial.mask), right.mean(where=trial.mask))


class Leak(eqx.Module):
    W: jax.Array
    U: jax.Array

    def __init__(self, units, inputs, *, key, scale=0.5):
        self.W = scale * jax.random.normal(key, (units, units)) / units**0.5
        self.U = jax.random.normal(key, (units, inputs))

    def __call__(self, input, state):
        return 0.5 * state + 0.5 * jnp.tanh(self.W @ state + self.U @ input)

    def zeros(self):
        return jnp.zeros(len(self.W))

    def output(self, state):
        return state


class NoOutput:
    def __init__(self, units, inputs, *, key):
        pass

    def zeros(self):
        return 0


class NoScore:
    channels, outputs = 1, 1


class Tuple(FirstBit):
    def __call__(self, key):
        return tuple(super().__call__(key))


class LossAlone(FirstBit):
    def score(self, outputs, trial):
        return super().score(outputs, trial).loss


class Unreduced(FirstBit):
    def score(self, outputs, trial):
        return fl.tasks.Score(jnp.zeros(self.steps), jnp.zeros(()))


class TwoChannels(FirstBit):
    channels = 2


class Wrong(FirstBit):
    def __call__(self, key):
        return 1 / 0


class Plain:
    def __init__(self, units, inputs, *, key):
        self.units = units

    def __call__(self, input, state):
        return state

    def zeros(self):
        return jnp.zeros(self.units)

    def output(self, state):
        return state
"""

SHORT = ["--units", "6", "--epochs", "6", "--chunk", "3", "--batch", "2"]
SHORT += ["--preflossing", "4", "--interflossing", "2", "--every", "2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "neighbour.py").write_text("STEPS = 12\n")
    return tmp_path


def run(*words):
    try:
        main([*map(str, words)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize(
    "condition",
    [
        "adaptive",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "before", "during", "before_and_during")),
    ],
)
def test_a_task_and_a_cell_of_a_file(folder, condition, capsys):
    words = ["train", "mine.py:FirstBit", "--cell", "mine.py:Leak", "--condition", condition, *SHORT]
    assert run(*words, "--threshold", "1e9") == 0
    directory = RunDirectory(folder / "runs" / f"FirstBit-Leak-{condition}-seed1")
    assert directory.config.title == "mine.py:FirstBit(), mine.py:Leak cell"
    assert len(directory.metrics("training")["accuracy"]) == 6
    blocks = {"none": 0, "before": 4, "during": 2 * 2, "before_and_during": 4 + 2 * 2, "adaptive": 4 + 2 * 2}
    flossing = directory.metrics("flossing")
    assert (len(flossing["exponents"]) if flossing else 0) == blocks[condition]
    assert np.isfinite(np.asarray(directory.info["spectra"]["end"], float)).all()
    assert (directory.path / "run.png").exists()
    assert run("spectrum", "--run", directory.path) == run("diagnose", "--run", directory.path, "--horizon", "5") == 0
    assert run("report", directory.path) == 0


def test_a_run_in_two_parts_is_one(folder):
    words = ["train", "mine.py:FirstBit", "--cell", "mine.py:Leak", "--condition", "adaptive", *SHORT]
    assert run(*words, "--out", "one") == 0
    words[words.index("--epochs") + 1] = "4"
    assert run(*words, "--out", "two") == 0
    assert run("train", "own", "--resume", "two", "--epochs", "6") == 0
    one, two = (RunDirectory(folder / name).parameters for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_runs_that_differ_in_their_seeds_share_compiled_programs(folder):
    words = ["train", "mine.py:FirstBit", "--cell", "mine.py:Leak", *SHORT]
    for seed in (1, 2):
        assert run(*words, "--seed", seed, "--out", f"seed{seed}") == 0
    first, second = (RunDirectory(folder / f"seed{seed}").info["compile_seconds"] for seed in (1, 2))
    assert second < 0.1 * first


def test_the_digest_covers_the_file(folder, capsys):
    words = ["train", "mine.py:FirstBit", "--condition", "none", *SHORT, "--out", "run"]
    config = OwnConfig.model_validate({"task": {"task": "mine.py:FirstBit"}})
    assert run(*words) == 0
    (folder / "mine.py").write_text(MINE + "\n# changed\n")
    assert OwnConfig.model_validate({"task": {"task": "mine.py:FirstBit"}}).digest != config.digest
    capsys.readouterr()
    assert run("spectrum", "--run", "run") == 2
    assert "mine.py has changed since" in capsys.readouterr().err
    elsewhere = OwnConfig.model_validate(config.model_dump() | {"safety": {"folder": "/elsewhere"}})
    assert elsewhere.digest == config.digest


@pytest.mark.slow
def test_sweep_collect_and_report(folder, capsys):
    fields = {"task": "mine.py:FirstBit", "epochs": 4, "units": 5, "batch": 2, "preflossing": 2, "chunk": 2}
    base = "".join(f"{name} = {json.dumps(value)}\n" for name, value in ({"experiment": "own"} | fields).items())
    axes = '[[axes]]\ncell = ["gru", "mine.py:Leak"]\n'
    (folder / "cells.toml").write_text(f"[base]\n{base}\n{axes}")
    assert run("sweep", "cells.toml", "--workers", "1") == 0
    assert "2 runs finished" in capsys.readouterr().out
    assert run("collect", "sweeps/cells") == run("report", "sweeps/cells") == 0


def test_library_tasks_and_options(folder):
    words = ["train", "own", "--task", "TemporalXOR", "--task-options", '{"steps": 20, "delay": 3}', "--cell", "lstm"]
    assert run(*words, "--cell-options", '{"gates": "open"}', "--loss", "exponents", *SHORT) == 0
    (directory,) = (folder / "runs").iterdir()
    assert directory.name == "TemporalXOR-lstm-before-seed1"
    assert RunDirectory(directory).config.title.startswith("TemporalXOR(steps=20, delay=3)")


def test_packages_and_entry_points(folder, monkeypatch):
    entry = importlib.metadata.EntryPoint("first", "mine:FirstBit", "flossing.tasks")
    monkeypatch.syspath_prepend(folder)
    assert source.load("mine:FirstBit", "", kind="task", known={}).channels == 1
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **which: [entry] if which["name"] == "first" else [])
    assert source.load("first", "", kind="task", known={}).__name__ == "FirstBit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.py:Nothing"], "task must be a class of .*mine.py .*FirstBit, Leak.*, got 'Nothing'"),
        (["none.py:X"], "none.py:X must be in a file that exists, got .*none.py"),
        (["mine.py:NoScore"], "task must follow the protocol flossing.tasks.Task, got .* without score"),
        (["mine.py:FirstBit", "--cell", "mine.py:NoOutput"], "cell must follow the protocol .* without output"),
        (["mine.py:FirstBit", "--cell", "nothing"], "cell must be one of tanh, leaky, .* got cell='nothing'"),
        (
            ["mine.py:FirstBit", "--task-options", '{"a": 1}'],
            r"task_options must name .* of FirstBit \(steps\): got an unexpected",
        ),
        (["mine.py:FirstBit", "--task-options", "{a"], "task_options must be JSON"),
        (["mine.py:FirstBit", "--cell-options", "[1]"], "cell_options must be a JSON object"),
        (["mine.py:FirstBit", "--k", "400"], "k must be at most the 64 coordinates|k must be an integer from 1 to 64"),
        (["mine.py:FirstBit", "--window", "13"], r"window must be an integer from 2 to 12 \(the task has 12 steps\)"),
        (["mine.py:Tuple"], r"task must return flossing.tasks.Trial\(.*\), got a tuple from mine.py:Tuple"),
        (
            ["mine.py:LossAlone"],
            r"task must return flossing.tasks.Score\(.* got a score of .*LossAlone without loss",
        ),
        (["mine.py:Unreduced"], r"flossing.tasks.Score\(.*two scalars, from score, got loss of shape \(12,\)"),
        (["mine.py:TwoChannels"], r"task must draw inputs of shape \(steps, 2\), since channels = 2, got \(12, 1\)"),
        (
            ["mine.py:Wrong"],
            r"task must run, got ZeroDivisionError from .*Wrong in line \d+ of mine.py: division",
        ),
        (["mine.py:FirstBit", "--cell", "mine.py:Plain"], "cell must be a pytree, got mine.py:Plain, .*equinox.Module"),
        (["own", "--task-options", '{"delay": 500}'], "delay must leave a scored step"),
        (["broken.py:X"], "task must be in a file that can be executed, got .*ZeroDivisionError"),
        (["no.such.package:X"], "task must be importable"),
    ],
)
def test_bad_input(folder, capsys, words, message):
    (folder / "broken.py").write_text("1 / 0\n")
    assert run("train", *words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flossing: ")]
    assert __import__("re").search(message, line)


def test_labels_show_a_digest_only_where_it_tells_runs_apart():
    cells = [{"network": {"cell": f"mine.py:{name}@{digit * 12}"}} for name, digit in (("A", "1"), ("B", "1"))]
    both = [OwnConfig.model_validate(each | {"safety": {"folder": "/x"}}) for each in cells]
    assert axes_of(both) == {"cell": ["mine.py:A", "mine.py:B"]}
    changed = both[0].with_values(cell=f"mine.py:A@{'2' * 12}")
    assert axes_of([both[0], changed]) == {"cell": [f"mine.py:A@{digit * 12}" for digit in "12"]}


def test_arguments_of_tasks_are_axes_of_their_own():
    """A report over delays has an axis `delay`, not one of JSON; a name that a setting has gets the section's."""
    options = [{"delay": 5}, {"delay": 10, "k": 3}, {"delay": 10, "k": [1, 2]}]
    configs = [OwnConfig().with_values(task_options=json.dumps(each)) for each in options]
    assert axes_of(configs) == {"delay": [5, 10], "task_k": [ABSENT, 3, "[1, 2]"]}
    assert labels_of(configs[1])["k"] is None and "task_options" not in labels_of(configs[1])
    names = {"seed": 3, "seed_tokens": 4, "experiment": "b"}
    seeded = OwnConfig().with_values(task_options=json.dumps(names), cell_options='{"gain": 2.0}')
    expected = {"task_seed": 3, "task_seed_tokens": 4, "task_experiment": "b", "cell_gain": 2.0, "seed": 1}
    assert expected.items() <= labels_of(seeded).items() and labels_of(seeded)["experiment"] == "own"


def test_a_collection_has_coordinates_for_arguments(folder):
    (folder / "sweep.toml").write_text(
        'base = { experiment = "own", task = "mine.py:FirstBit", units = 6, epochs = 2, condition = "none" }\n'
        "[[axes]]\ntask_options = [{ steps = 5 }, { steps = 8 }]\n"
    )
    main(["sweep", "sweep.toml", "--out", "swept", "--workers", "1"])
    main(["collect", "swept", "--out", "swept.zarr"])
    found = xarray.open_zarr(folder / "swept.zarr")
    assert found["steps"].values.tolist() == [5, 8] and found.sizes["steps"] == 2


def test_a_state_may_have_more_coordinates_than_units():
    config = OwnConfig().with_values(cell="lstm", units=4)
    assert experiment.state_size(config) == 8
