"""The command line: messages and exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import flossing
from flossing_lab.cli import main
from flossing_lab.reference.config import Config
from flossing_lab.runs.directory import RunDirectory
from tests.lab_helpers import COMMAND, TINY, command_here, command_line


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Run a command that must end with exit code 2, in this process; returns its one-line message."""

    def run(*arguments) -> str:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main(arguments)
        said = capfd.readouterr().err
        assert end.value.code == 2
        assert said.startswith("flossing: ") and said.count("\n") == 1, said
        return said

    return run


def test_help_does_not_import_jax():
    code = "import sys, flossing\nfrom flossing_lab.cli import main\ntry: main(['train', '--help'])\n"
    code += "except SystemExit: assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules), 'heavy import'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("--delay", "--preflossing", "--seed-network", "--condition"):
        assert name in done.stdout


def test_train_then_spectrum(tmp_path):
    done = command_here("train", *TINY, "--epochs", "12", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 12/12" in done.stdout
    assert "run directory" in done.stdout
    directory = RunDirectory(tmp_path / "run")
    assert directory.config.training.epochs == 12
    assert directory.info["status"] == "finished"

    done = command_here("spectrum", "--run", "run", "--plot", "one.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 of 10, per step, natural logarithm" in done.stdout
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")

    other = command_here("train", *TINY, "--out", "run", cwd=tmp_path)
    assert other.returncode == 2
    assert "epochs=12 (not 3001); overwrite replaces it" in other.stderr


def test_a_run_is_lengthened_by_resume(tmp_path):
    """As if it had been that long from the start."""
    for epochs, out in (("6", "short"), ("12", "long")):
        assert command_here("train", *TINY, "--epochs", epochs, "--out", out, cwd=tmp_path).returncode == 0
    done = command_here("train", "--resume", "short", "--epochs", "12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = RunDirectory(tmp_path / "short"), RunDirectory(tmp_path / "long")
    assert ours.config == theirs.config
    for name, values in theirs.parameters.items():
        np.testing.assert_array_equal(ours.parameters[name], values)
    np.testing.assert_array_equal(ours.metrics("training")["loss"], theirs.metrics("training")["loss"])
    shorter = command_here("train", "--resume", "short", "--epochs", "3", cwd=tmp_path)
    assert shorter.returncode == 2
    assert "epochs must be at least the 12 of the run, got epochs=3" in shorter.stderr
    other = command_here("train", "--resume", "short", "--delay", "5", cwd=tmp_path)
    assert other.returncode == 2
    assert "delay must be left out with resume" in other.stderr


def test_one_seed_for_all(tmp_path):
    done = command_here("train", *TINY, "--epochs", "2", "--seed", "3", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(RunDirectory(tmp_path / "run").config.seeds.model_dump().values()) == {3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tarin"], "did you mean train?"),
        (["tarin", "--help"], "did you mean train?"),
        (["nosuch", "--help"], "flossing --help lists the legal values"),
        (["train", "--delays", "20"], "did you mean --delay?"),
        (["train", "balance", "--signal", "2"], "did you mean --signals?"),
        (["train", "balanse"], "did you mean balance?"),
        (["train", "xyz"], "the experiments are reference, balance, own"),
        (["train", "--seed", "3", "--seed-input", "2"], "seed must be left out where seeds are given one by one"),
        (["train", "--seed", "-1"], "flossing: seed must be an integer from 0 to 4294967295, got seed=-1\n"),
        (["train", "--epochs", "1e3"], "--epochs must be an integer, got '1e3'"),
        (["train", "--gain", "x"], "--gain must be a number, got 'x'"),
        (["report", "nowhere"], "directory must hold a run, got 'nowhere', which does not exist"),
        (["report", ".", "--out", "."], "out must be an HTML file, got '.', which is a directory"),
        (["report", ".", "--out", f"{__file__}/page.html"], "which is in a file, not in a directory"),
        (["diagnose", "--horizon", "-4"], "flossing: horizon must be an integer of at least 1, got horizon=-4\n"),
        (["diagnose", "--plot", "x.txt"], "plot must end in .png, .pdf or .svg, got 'x.txt'"),
        (["spectrum", "--plot", "x.txt"], "plot must end in .png, .pdf or .svg, got 'x.txt'"),
    ],
)
def test_a_slip_is_pointed_out(words, message, refused):
    assert message in refused(*words)


def test_without_a_command_it_prints_its_help(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code in (0, None)
    assert "{train,spectrum,diagnose,demo,sweep,collect,report,paper,compare}" in capsys.readouterr().out


SMALL = "--units 10 --steps 20 --delay 2".split()


def test_what_has_no_effect_on_a_fresh_network_is_no_flag_of_its_measurements(refused):
    for command in ("spectrum", "diagnose"):
        assert "--k" in refused(command, *SMALL, "--k", "4")


def test_spectrum_of_a_fresh_network(tmp_path):
    done = command_here("spectrum", *SMALL, "--first", "3", "--dtype", "float64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 10" in done.stdout
    assert "float64" in done.stdout
    assert "±" not in done.stdout
    long = ["--units", "10", "--steps", "300", "--first", "3"]
    done = command_here("spectrum", *long, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(" ± 0.") == 3, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "81"], "flossing: k must be an integer from 1 to 80 (the number of units), got k=81"),
        (["--delay", "200"], "flossing: delay must leave a scored step: the longest lag may be at most steps=300"),
        (["--gain", "nan"], "flossing: gain must be a finite number, got gain=nan"),
        (["--learning-rate", "-1"], "flossing: learning_rate must be greater than 0, got learning_rate=-1.0"),
        (["--task", "copy", "--channels", "3"], "flossing: channels must be 1 for copy, got channels=3"),
        (["--window", "301"], "flossing: window must be at most flossing_steps=300, got window=301"),
        (["--out", "/dev/null/run"], "flossing: "),
    ],
)
def test_illegal_values_end_in_one_line(arguments, message, refused, tmp_path):
    assert refused("train", *arguments).startswith(message)
    assert not list(tmp_path.rglob("run.json"))  # nothing half-made is left behind


@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("--delay", "ten", "ten"),
        ("--nonsense", "1", "--nonsense"),
        ("--task", "sorting", "sorting"),
        ("--dtype", "f8", "f8"),
    ],
)
def test_what_cannot_be_parsed_is_reported_by_the_parser(argument, value, named, refused, tmp_path):
    assert named in refused("train", argument, value)
    assert not list(tmp_path.iterdir())


def test_spectrum_of_nothing(refused):
    assert refused("spectrum", "--run", "missing") == "flossing: run directory must hold run.json, got 'missing'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--first", "0"], "first must be an integer from 1 to 10 (the state has 10 coordinates), got first=0"),
        (["--first", "11"], "first must be an integer from 1 to 10 (the state has 10 coordinates), got first=11"),
        (["--plot", "taken.png"], "taken.png: Is a directory"),
        (["--plot", "taken.png/file/x.png"], "taken.png/file: File exists"),
    ],
)
def test_spectra_that_cannot_be(arguments, message, refused, tmp_path):
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "taken.png/file").touch()
    assert refused("spectrum", *SMALL, *arguments) == f"flossing: {message}\n"


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"flossing {flossing.__version__}\n"


def test_a_seed_of_the_demo(refused):
    assert refused("demo", "--seed", "-1") == "flossing: seed must be an integer of at least 0, got seed=-1\n"


def test_the_page_of_the_experiment_knows_all_flags():
    docs = Path(__file__).parents[1] / "docs"
    page = "".join((docs / f"{name}.md").read_text() for name in ("experiment", "julia", "runs"))
    flags = ["--" + name.replace("_", "-") for name in Config().values()]
    assert len(flags) > 40
    assert [flag for flag in flags if flag not in page] == []


def test_a_process_says_so_too(tmp_path):
    done = command_line("train", "--units", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "flossing: units must be greater than or equal to 1, got units=0\n"


@pytest.mark.slow
def test_ctrl_c_in_a_callback_of_the_garbage_collector_counts(tmp_path):
    code = """
import gc, signal, time
from flossing_lab import cli

def callback(phase, info):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)

def command():
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(30)

cli._parse = lambda arguments: command
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "flossing: interrupted\n", done.stderr


def test_ctrl_c_leaves_a_readable_directory(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "train", *TINY, "--epochs", "1000000", "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    chunk = tmp_path / "run" / "metrics" / "training-00000006.npz"
    deadline = time.monotonic() + 120
    while not chunk.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.startswith("flossing: interrupted")
    assert "Traceback" not in stderr
    directory = RunDirectory(tmp_path / "run")
    assert directory.info["status"] == "interrupted"
    assert len(directory.metrics("training")["loss"]) >= 5
    assert not list(directory.path.rglob("*.part"))
