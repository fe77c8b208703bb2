"""Interrupted runs resume as if they had never stopped."""

import json
import logging
import shutil
import subprocess
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flossing._training.train import init_training
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from flossing_lab.runs import locks
from flossing_lab.runs.checkpoint import newest_checkpoint, parameters_of, with_parameters
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.run import run
from tests.lab_helpers import COMMAND, TINY, command_here
from tests.test_train import SMALL as SMALL32
from tests.torture import compare, torture

SMALL = SMALL32.with_values(dtype="float64", checkpoint_every=2)
pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"):
        return run(SMALL, tmp_path_factory.mktemp("runs") / "undisturbed")


def stop_at(epoch: int):
    def interrupt(status):
        if status.epoch >= epoch:
            raise KeyboardInterrupt

    return interrupt


@pytest.fixture
def stopped(tmp_path):
    """A run directory stopped after epoch 5 of 12, right before a flossing block."""
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", on_progress=stop_at(5))
    return RunDirectory(tmp_path / "run")


def test_a_stopped_run_goes_on_to_the_bit(stopped, undisturbed):
    assert stopped.info["status"] == "interrupted"
    assert stopped.metrics("training")["epoch"][-1] == 5
    begun = []
    run(SMALL, stopped.path, on_progress=begun.append)
    compare(undisturbed, stopped)
    (resumed,) = stopped.info["resumed"]
    assert (resumed["epoch"], resumed["flossing_epoch"]) == (5, 5)
    assert stopped.info["seconds"] > 0


def test_a_finished_run_is_returned_as_it_is(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*")}
    seen = []
    again = run(SMALL, undisturbed.path, on_progress=seen.append)
    assert again.path == undisturbed.path
    assert not seen
    assert {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*")} == before


def test_a_damaged_checkpoint_is_named_and_passed_over(stopped, undisturbed, caplog):
    older, newest = sorted((stopped.path / "checkpoints").glob("*.eqx"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING, "flossing"):
        run(SMALL, stopped.path)
    assert f"{newest} is damaged and passed over (its content does not match its digest)" in caplog.text
    assert stopped.info["resumed"][0]["epoch"] == int(older.name[:8]) < 5
    compare(undisturbed, stopped)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x80\x04\x95", None])
def test_without_a_good_checkpoint_a_run_begins_again(stopped, undisturbed, caplog, content):
    for path in (stopped.path / "checkpoints").glob("*.eqx"):
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    run(SMALL, stopped.path)
    assert caplog.text.count("is damaged and passed over") == 2
    compare(undisturbed, stopped)


def test_a_checkpoint_of_another_network_is_refused(undisturbed):
    larger = reference.build(SMALL.with_values(units=11))
    like = init_training(larger.model, larger.optimiser, larger.flossing)
    with pytest.raises(ValueError, match="out must hold a run of this model, got .* whose arrays are those of another"):
        newest_checkpoint(undisturbed.path / "checkpoints", like)


def test_another_configuration_is_refused_by_name(undisturbed):
    other = SMALL.with_values(delay=3, seed_network=7)
    with pytest.raises(
        ValueError, match=r"which has delay=2 \(not 3\), seed_network=1 \(not 7\); overwrite replaces it"
    ):
        run(other, undisturbed.path)


def test_two_processes_do_not_write_to_one_run(stopped, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with (
        stopped.opened(),
        pytest.raises(ValueError, match="out must not be in use, got .* another process is at work"),
        RunDirectory(stopped.path).opened(),
    ):
        pass


def test_a_start_that_was_killed_does_not_block_the_next(tmp_path):
    for leftover in ("run/metrics", "run/checkpoints"):
        (tmp_path / leftover).mkdir(parents=True)
    (tmp_path / "run" / ".run.json.123.part").write_text("{")
    (tmp_path / "run" / "metrics" / ".training-00000001.npz.123.part").write_bytes(b"half")
    directory = run(SMALL.with_values(epochs=2, condition="none"), tmp_path / "run")
    assert directory.info["status"] == "finished"
    assert not list(directory.path.rglob("*.part"))


def test_overwriting_that_was_killed_does_not_block_the_next(stopped, undisturbed):
    """run.json goes first; what is left then is no run to continue, nor somebody else's."""
    (stopped.path / "run.json").unlink()
    (stopped.path / "run.png").write_bytes(b"")
    run(SMALL, stopped.path)
    compare(undisturbed, stopped)
    assert "resumed" not in stopped.info


def test_a_run_that_another_process_began_meanwhile_is_not_continued(stopped, tmp_path, monkeypatch):
    """The configuration is compared again under the lock."""
    elsewhere, build = stopped.path.rename(tmp_path / "elsewhere"), reference.build

    def build_while_another_begins(*arguments, **options):
        elsewhere.rename(stopped.path)
        return build(*arguments, **options)

    monkeypatch.setattr(reference, "build", build_while_another_begins)
    with pytest.raises(ValueError, match="out must not hold a run of another configuration, .* has seed_input="):
        run(SMALL.with_values(seed_input=77), stopped.path)


def test_a_run_whose_step_size_falls_keeps_its_length(tmp_path):
    config = SMALL.with_values(decay=3)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", on_progress=stop_at(5))
    with pytest.raises(ValueError, match="epochs must be the 12 of the run, whose learning rate falls to 0 there"):
        run(config.with_values(epochs=20), tmp_path / "run", lengthen=True)
    assert command_here("train", "--resume", "run", "--epochs", "20", cwd=tmp_path).returncode == 2


def test_a_link_out_of_the_directory_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="must be a folder of its own, got a link"):
        run(SMALL, tmp_path / "run", overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_divergence_names_epoch_quantity_and_exponents(tmp_path):
    config = SMALL.with_values(learning_rate=1e300, clip=1e300)
    message = r"(training|flossing) epoch \d+: .*; the state after training epoch 0 is kept, its exponents run from λ1"
    with pytest.raises(FloatingPointError, match=message):
        run(config, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    info = directory.info
    assert info["status"] == "failed"
    assert "epoch" in info["error"]
    assert len(info["exponents_before_error"]) == config.k
    assert list((directory.path / "checkpoints").glob("*.eqx"))


def test_a_run_may_go_on_with_a_smaller_step(tmp_path):
    # The logits, a product of two arrays that grow with the step, overflow until it has been halved often enough.
    config = SMALL.with_values(learning_rate=1e153, condition="none", epochs=12, chunk=6, checkpoint_every=1)
    with pytest.raises(FloatingPointError):
        run(config, tmp_path / "run")
    directory = run(config.with_values(halvings=60), tmp_path / "run")
    info = directory.info
    assert info["status"] == "finished"
    assert np.isfinite(directory.metrics("training")["loss"]).all()
    rates = [note["learning_rate"] for note in info["halvings"]]
    assert rates == [1e153 * 0.5 ** (i + 1) for i in range(len(rates))]
    assert 0 < len(rates) < 60
    # Stopped after a halving and continued, it is the same run; so is one that was allowed to halve from the start.
    with pytest.raises(KeyboardInterrupt):
        run(config.with_values(halvings=60), tmp_path / "again", on_progress=stop_at(6))
    again = run(config.with_values(halvings=60), tmp_path / "again")
    ours, theirs = directory.parameters, again.parameters
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


def test_a_directory_of_the_first_version_opens(undisturbed, tmp_path):
    # 0.1.0 knew no checkpoints, snapshots and horizons, and three arguments less.
    old = RunDirectory(tmp_path / "old")
    shutil.copytree(undisturbed.path, old.path)
    for name in ("checkpoints", "snapshots"):
        shutil.rmtree(old.path / name)
    (old.path / "horizons.npz").unlink()
    info = json.loads((old.path / "run.json").read_text())
    del info["config"]["safety"], info["config"]["training"]["chunk"]
    (old.path / "run.json").write_text(json.dumps(info))
    assert old.config == SMALL.with_values(checkpoint_every=100)
    assert old.horizons == {}
    assert old.snapshots == {}
    assert run(SMALL, old.path).metrics("training")["loss"].shape == (12,)


@pytest.mark.slow
def test_killed_three_times(tmp_path):
    """Three of the fifty kills of `make torture`; resuming on the command line is tested each time."""
    counts = torture(tmp_path, 3, epochs=700)
    assert counts["kills"] == 3
    assert counts["went_on"] >= 2


def in_mounted(folder, options: str, script: str) -> subprocess.CompletedProcess:
    """Run a script where `folder` is a small file system of its own; skip where that is not allowed."""
    mount = f"mount -t tmpfs -o {options} tmpfs {folder} && {script}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs unshare with user and mount namespaces, which this system does not allow")
    return subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True)


def test_a_full_disk_ends_in_one_line_with_the_last_checkpoint_intact(tmp_path, undisturbed):
    (tmp_path / "small").mkdir()
    train = " ".join([*COMMAND, "train", *TINY, "--dtype", "float64"])
    train += f" --epochs 4000 --chunk 20 --checkpoint-every 20 --out {tmp_path}/small/run"
    copy = f"cp -r {tmp_path}/small/run {tmp_path}/kept"
    done = in_mounted(tmp_path / "small", "size=700k", f"{{ {train}; code=$?; {copy}; exit $code; }}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("flossing: ")
    assert done.stderr.count("\n") == 1
    assert "No space left on device; finished work is kept, and the same command continues from there" in done.stderr
    kept = RunDirectory(tmp_path / "kept")
    assert 0 < kept.metrics("training")["epoch"][-1] < 4000
    assert not list(kept.path.rglob("*.part"))
    experiment = reference.build(kept.config)
    like = init_training(experiment.model, experiment.optimiser, experiment.flossing)
    checkpoint = newest_checkpoint(kept.path / "checkpoints", like)
    assert checkpoint is not None
    assert checkpoint.state.epoch > 0


def test_a_read_only_directory_ends_in_one_line(tmp_path):
    (tmp_path / "fixed").mkdir()
    train = " ".join([*COMMAND, "train", *TINY])
    done = in_mounted(tmp_path / "fixed", "ro", f"{train} --out {tmp_path}/fixed/run")
    assert done.returncode == 2
    assert done.stderr.startswith("flossing: out must be a directory that can be written, got")
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1


def test_resume_on_the_command_line(tmp_path):
    command = ["train", *TINY, "--epochs", "12"]
    assert command_here(*command, "--out", "run", cwd=tmp_path).returncode == 0
    again = command_here(*command, "--out", "run", cwd=tmp_path)
    assert again.returncode == 0
    assert "this run is finished" in again.stdout
    # As a crash would leave it: the last words not written, one chunk lost.
    directory = RunDirectory(tmp_path / "run")
    config = directory.info["config"]
    config["safety"] |= {"halvings": 3, "checkpoint_every": 500}
    directory.write_info(directory.info | {"status": "running", "config": config})
    resumed = command_here("train", "--resume", "run", "--checkpoint-every", "50", cwd=tmp_path)
    assert resumed.returncode == 0 and "epoch 12/12" in resumed.stdout, resumed.stderr
    safety = directory.config.safety
    assert (safety.halvings, safety.checkpoint_every) == (3, 50)  # as stored, unless given
    assert directory.info["status"] == "finished"
    assert directory.config.training.epochs == 12
    usual = command_here("train", "--resume", "run", "--halvings", "0", "--epochs", "13", cwd=tmp_path)
    assert usual.returncode == 0 and directory.config.safety.halvings == 0, usual.stderr  # the default, but given
    other = command_here("train", "--resume", "run", "--delay", str(Config().task.delay), cwd=tmp_path)
    assert other.returncode == 2 and "delay must be left out with resume" in other.stderr
    both = command_here("train", "--resume", "run", "--out", "other", cwd=tmp_path)
    assert both.returncode == 2
    assert both.stderr.startswith("flossing: out and overwrite must be left out with resume")
    missing = command_here("train", "--resume", "nowhere", cwd=tmp_path)
    assert (missing.returncode, missing.stderr) == (2, "flossing: run directory must hold run.json, got 'nowhere'\n")


def test_parameters_go_into_a_model_with_other_fields():
    class Model(eqx.Module):
        w: jax.Array
        dt: float = 0.1
        act: Callable = jax.nn.relu

    model = Model(jnp.zeros(2))
    found = with_parameters(model, parameters_of(Model(jnp.ones(2))))
    assert found.w.tolist() == [1, 1] and (found.dt, found.act) == (0.1, jax.nn.relu)
    with pytest.raises(ValueError, match=r"parameters.npz must hold w of shape \(2,\), got shape \(3,\)"):
        with_parameters(model, {"w": np.ones(3)})
