"""Sweeps from the command line: killed, restarted and extended, and the files they leave."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import gethostname

import numpy as np
import psutil
import pytest
from filelock import FileLock
from rich.console import Console

import flossing
import flossing_lab
from flossing_lab.runs import locks, provenance
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.process import ONE_THREAD
from flossing_lab.sweeps import workers as working
from flossing_lab.sweeps.collection import find_runs, read_sweep
from flossing_lab.sweeps.spec import Spec
from flossing_lab.sweeps.sweep import sweep

# A checkpoint after each epoch: a run that can be caught in the middle. Seeds alone differ, so it is compiled once.
RUN = {
    "units": 10, "k": 4, "batch": 3, "steps": 20, "delay": 2, "window": 12, "flossing_steps": 20,
    "preflossing": 5, "interflossing": 4, "every": 6, "blocks": 1, "epochs": 100, "snapshots_every": 0,
    "chunk": 1, "checkpoint_every": 1,
}  # fmt: skip
SEEDS = [{"seed": [1, 2, 3]}]

SCRIPT = """
import json, os, sys
from distributed import LocalCluster
from rich.console import Console
from flossing_lab.sweeps import sweep, workers as working
from flossing_lab.sweeps.spec import Spec

if __name__ == "__main__":
    base, axes, out, workers, kills = json.loads(sys.argv[1])
    working.KILLS = kills
    try:
        spec = Spec(name="test", base=base, axes=axes)
        if workers:
            outcome = sweep.sweep(spec, out, workers=workers, console=Console(width=300))
        else:
            with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
                outcome = sweep.sweep(spec, out, scheduler=cluster.scheduler_address, console=Console(width=300))
    except KeyboardInterrupt:
        sys.exit(130)
    print(outcome)
    sys.exit(outcome.failed > 0)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a sweep in its own process; leftover processes end with the tests."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "script.py").write_text(SCRIPT)
    # Ignore the user's settings, and do not fill the user's cache.
    environment = os.environ | {"OMP_NUM_THREADS": "7", "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}

    def begin(out, axes=SEEDS, base=RUN, workers=2, kills=10) -> subprocess.Popen:
        arguments = json.dumps([base, axes, str(out), workers, kills])
        process = processes.enter_context(
            subprocess.Popen(
                [sys.executable, "-W", "error", folder / "script.py", arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
            )
        )
        processes.callback(process.kill)
        return process

    with contextlib.ExitStack() as processes:
        yield begin


def finish(process, code=0) -> str:
    """The output of a finished sweep."""
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stdout + stderr
    assert "Traceback" not in stderr, stderr
    return stdout


def workers(process) -> list[psutil.Process]:
    """The worker processes of a sweep."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            pass
    return found


def at_work(process, out) -> psutil.Process:
    """A worker of a sweep that is in the middle of a run, once there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for worker in workers(process):
            try:
                held = [file.path for file in worker.open_files() if file.path.endswith("/.lock")]
            except psutil.Error:
                continue
            if held and list((out / "runs").glob(f"{held[0].split('/')[-2]}/metrics/training-0000002*.npz")):
                return worker
        time.sleep(0.02)
    raise AssertionError(f"no run was caught: {process.communicate()}")


def assert_same(ours, theirs):
    """The runs of `theirs`, each epoch once, are in `ours` as well, equal to the bit."""
    for expected in find_runs([theirs]):
        run = RunDirectory(ours / "runs" / expected.path.name)
        assert run.info["status"] == "finished"
        assert run.config == expected.config
        np.testing.assert_array_equal(run.metrics("training")["epoch"], np.arange(1, run.config.training.epochs + 1))
        for found, wanted in (
            (run.metrics("training"), expected.metrics("training")),
            (run.metrics("flossing"), expected.metrics("flossing")),
            (run.parameters, expected.parameters),
        ):
            assert found.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_array_equal(found[name], wanted[name], f"{name} of {run.path}")


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    return out, finish(start(out, workers=1))


def test_a_sweep_runs_every_point(undisturbed):
    out, stdout = undisturbed
    assert "sweep test: 3 runs, 0 finished before" in stdout
    assert f"directory   {out}" in stdout
    assert "dashboard   http://127.0.0.1:" in stdout
    assert "3 of 3 finished  100% done" in stdout
    assert stdout.endswith("Outcome(finished=3, reused=0, failed=0)\n")
    content = read_sweep(out)
    assert (content["name"], content["base"], content["axes"]) == ("test", RUN, SEEDS)
    assert [run["values"] for run in content["runs"]] == [{"seed": seed} for seed in (1, 2, 3)]
    for run in content["runs"]:
        directory = RunDirectory(out / "runs" / run["digest"])
        assert directory.config.digest == run["digest"]
        assert directory.info["status"] == "finished"
        assert directory.config.seeds.seed_network == run["values"]["seed"]


def test_what_is_finished_is_not_run_again(undisturbed, start):
    out, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    stdout = finish(start(out))
    assert stdout.endswith("Outcome(finished=0, reused=3, failed=0)\n")
    assert "dashboard" not in stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


@pytest.mark.slow
def test_another_axis_reuses_what_it_can(undisturbed, start, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    stdout = finish(start(tmp_path, [{"seed": [2, 3, 4]}], workers=0))  # on a scheduler that was there before
    assert stdout.endswith("Outcome(finished=1, reused=2, failed=0)\n")
    assert {run.config.seeds.seed_input for run in find_runs([tmp_path])} == {2, 3, 4}
    assert len(list((tmp_path / "runs").iterdir())) == 4  # nothing is ever removed


@pytest.mark.slow
def test_killed_workers_and_clients_lose_nothing(undisturbed, start, tmp_path):
    process = start(tmp_path, workers=1)
    worker = at_work(process, tmp_path)
    assert worker.environ().items() >= ONE_THREAD.items()
    worker.kill()
    worker.wait(timeout=10)
    at_work(process, tmp_path)
    left = workers(process)
    process.kill()
    assert psutil.wait_procs(left, timeout=10)[1] == []  # workers do not outlive their client
    assert finish(start(tmp_path, workers=1)).endswith("failed=0)\n")
    assert_same(tmp_path, undisturbed[0])
    assert any("resumed" in run.info for run in find_runs([tmp_path]))


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_in_good_order(start, tmp_path):
    process = start(tmp_path, base=RUN | {"epochs": 10**6}, workers=1)
    at_work(process, tmp_path)
    left = workers(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    finish(process, code=130)
    assert psutil.wait_procs(left, timeout=10)[1] == []
    assert {run.info["status"] for run in find_runs([tmp_path])} <= {"interrupted", "running"}


@pytest.mark.slow
def test_a_failure_stops_nothing_else(start, tmp_path):
    axes = [{"learning_rate": [1e30, 1e-3], "clip": [1e30, 0.03], "condition": ["none", "before_and_during"]}]
    stdout = finish(start(tmp_path, axes, workers=1), code=1)
    assert stdout.endswith("Outcome(finished=1, reused=0, failed=1)\n")
    (row,) = [line for line in stdout.splitlines() if "learning_rate=" in line]
    assert "learning_rate=1e+30, clip=1e+30, condition=none" in row
    assert "FloatingPointError: " in row
    assert "epoch" in row
    assert {run.info["status"] for run in find_runs([tmp_path])} == {"finished", "failed"}
    assert all(run.path.name in row for run in find_runs([tmp_path]) if run.info["status"] == "failed")


SPEC = Spec(name="test", base=RUN, axes=SEEDS)


def test_a_directory_serves_one_sweep_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ValueError, match="out must not be in use, got .* another process"),
    ):
        sweep(SPEC, tmp_path, console=Console(quiet=True))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="out must be new, empty or of a sweep, got .* which holds 'thesis.tex'"):
        sweep(SPEC, tmp_path, console=Console(quiet=True))
    with pytest.raises(ValueError, match="out must be a directory that can be written, got .*: Not a directory"):
        sweep(SPEC, tmp_path / "thesis.tex" / "x", console=Console(quiet=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, and left out with scheduler, got workers=0"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "left out with scheduler, got workers=2"),
        ({"scheduler": "nonsense"}, "scheduler must be an address such as tcp://127.0.0.1:8786, got scheduler="),
    ],
)  # fmt: skip
def test_arguments_are_checked_before_anything_starts(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        sweep(SPEC, tmp_path / "out", console=Console(quiet=True), **arguments)
    assert not (tmp_path / "out").exists()


def test_points_that_their_task_cannot_use_are_named(tmp_path):
    spec = Spec(name="long", base={"steps": 20}, axes=[{"delay": [10, 11]}])
    with pytest.raises(ValueError, match="^long: at delay=11: delay must leave a scored step"):
        sweep(spec, tmp_path / "out", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_worker_with_other_code_refuses_its_jobs():
    job = working.Job(pytest.fail, ("it ran",))
    error = working._do(job, "a", "a topic", "0123456789ab")
    assert error == f"workers must run the code of this command, got another version of flossing on {gethostname()}"


def test_the_digest_of_the_code_follows_its_files(tmp_path):
    packages = [Path(package.__path__[0]) for package in (flossing, flossing_lab)]
    assert provenance.code_digest() == provenance.digest_of(*packages)
    copies = [shutil.copytree(package, tmp_path / package.name) for package in packages]
    assert provenance.digest_of(*copies) == provenance.code_digest()
    (copies[1] / "cli.py").write_text("# other code")
    assert provenance.digest_of(*copies) != provenance.code_digest()


def test_the_extra_is_named_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"flossing sweep needs the extra \[lab\]: pip install 'flossing\[lab\]'"):
        sweep(SPEC, tmp_path, console=Console(quiet=True))


def test_progress_is_counted_in_epochs(monkeypatch):
    said, now = io.StringIO(), [0.0]
    monkeypatch.setattr(working.time, "monotonic", lambda: now[0])
    with working.ProgressBoard(4, Console(file=said, width=200)) as board:
        now[0] = 100.0  # until the workers are there
        board.follow("a", 0.5)  # a run that goes on half-way
        now[0] = 110.0
        board.follow("a", 0.75)
        board.follow("b", 0.0)
        now[0] = 120.0
        board.end("a", failed=False)
        board.end("c", failed=True)
        now[0] = 1000.0
        board.follow("b", 0.25)
        board.follow("b", 0.375)
    assert said.getvalue().splitlines() == [
        "0 of 4 finished  1 running  12% done",
        "1 of 4 finished  1 running  25% done  0:02:00 left",
        "1 of 4 finished  1 running  1 failed  50% done  0:01:20 left",
        "1 of 4 finished  1 running  1 failed  56% done  0:35:00 left",
    ]


@pytest.mark.slow
def test_a_run_that_kills_its_workers_fails_alone(start, tmp_path):
    process = start(tmp_path, kills=1)
    victim = Spec(name="x", base=RUN, axes=SEEDS).points()[0].config.digest
    while process.poll() is None:
        for worker in workers(process) if process.poll() is None else []:
            try:
                if any(victim in file.path for file in worker.open_files()):
                    worker.kill()
            except psutil.Error:
                pass
        time.sleep(0.01)
    stdout = finish(process, code=1)
    assert stdout.endswith("Outcome(finished=2, reused=0, failed=1)\n")
    assert "every worker that took it up died" in stdout


@pytest.mark.slow
def test_two_hundred_runs_survive_ten_kills(start, tmp_path):
    rng, kills, base = random.Random(0), 0, RUN | {"epochs": 20, "chunk": 5, "checkpoint_every": 5}
    process = start(tmp_path / "killed", [{"seed": list(range(200))}], base)
    moments = sorted(rng.sample(range(1, 190), 10))
    while process.poll() is None:
        time.sleep(rng.uniform(0, 0.5))
        done = len(list((tmp_path / "killed").glob("runs/*/run.png")))
        victims = workers(process) if moments and done >= moments[0] and process.poll() is None else []
        if victims:
            rng.choice(victims).kill()
            kills, moments = kills + 1, moments[1:]
    assert finish(process).endswith("Outcome(finished=200, reused=0, failed=0)\n")
    assert kills == 10
    assert len(list((tmp_path / "killed" / "runs").iterdir())) == 200
    runs = find_runs([tmp_path / "killed"])
    assert len({run.config.digest for run in runs}) == 200
    for run in runs:
        assert run.info["status"] == "finished"
        for kind, epochs in (("training", 20), ("flossing", 9)):
            np.testing.assert_array_equal(run.metrics(kind)["epoch"], np.arange(1, epochs + 1))
        assert run.parameters
        assert run.horizons
        assert not list(run.path.rglob("*.part"))
    resumed = {run.config.seeds.seed_input for run in runs if "resumed" in run.info}
    assert len(resumed) <= kills
    sample = sorted(resumed | set(rng.sample(range(200), 10)))
    finish(start(tmp_path / "clean", [{"seed": sample}], base))
    assert_same(tmp_path / "killed", tmp_path / "clean")
