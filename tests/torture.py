"""Kill a run repeatedly at random moments and check that nothing is lost: `python -m tests.torture --kills 50`.

One run completes undisturbed. A second run of the same configuration is killed (SIGKILL) and restarted until it ends. A
third of the kills come at random after process start, a third at random during training, and a third while a file is
being written. Both runs must be bit-identical.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from flossing_lab.runs.directory import RunDirectory
from tests.lab_helpers import COMMAND

RUN = (
    "--units 10 --k 4 --batch 3 --steps 20 --delay 2 --window 12 --flossing-steps 20 --preflossing 30 "
    "--interflossing 20 --every 60 --blocks 2 --chunk 1 --checkpoint-every 1 --snapshots-every 10"
).split()


def start(out: Path, epochs: int) -> subprocess.Popen:
    """The run as a user starts it; the same command restarts it."""
    command = [*COMMAND, "train", *RUN, "--epochs", str(epochs), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def torture(out: Path, kills: int, *, epochs: int, seed: int = 0) -> dict[str, int]:
    """Run with and without kills, compare, and count all kills, those during a write and those after progress."""
    rng = random.Random(seed)
    _finish(start(out / "undisturbed", epochs))
    run, killed = out / "killed", {"kills": 0, "amid_a_write": 0, "went_on": 0}
    while killed["kills"] < kills:
        process = start(run, epochs)
        before = _newest(run)
        kind = killed["kills"] % 3
        if kind == 0:
            time.sleep(rng.uniform(0, 5))
        else:
            _wait_for_progress(run, before, process)
        if kind == 1:
            time.sleep(rng.uniform(0, 0.5))
        elif kind == 2:
            _wait_for_write(run, process)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed["kills"] += 1
        killed["amid_a_write"] += any(run.rglob(".*.part"))
        killed["went_on"] += _newest(run) > before
    if killed["kills"] < kills:
        raise AssertionError(f"the run ended after {killed['kills']} kills of {kills}: give it more epochs")
    _finish(start(run, epochs))
    compare(RunDirectory(out / "undisturbed"), RunDirectory(run))
    return killed


def compare(ours: RunDirectory, theirs: RunDirectory):
    """Raise AssertionError unless two runs hold the same files and the same numbers, to the bit."""
    files = [{str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()} for run in (ours, theirs)]
    if files[0] != files[1]:
        raise AssertionError(f"files differ: {sorted(files[0] ^ files[1])}")
    for name in sorted(files[0]):
        if name.endswith(".npz"):
            with np.load(ours.path / name) as a, np.load(theirs.path / name) as b:
                assert set(a.files) == set(b.files), name
                for key in a.files:
                    assert a[key].dtype == b[key].dtype and a[key].tobytes() == b[key].tobytes(), (name, key)
        elif name.endswith(".eqx"):
            a, b = ((run.path / name).read_bytes().split(b"\n", 2) for run in (ours, theirs))
            headers = [json.loads(line) | {"seconds": 0} for line in (a[1], b[1])]
            assert headers[0] == headers[1] and a[2] == b[2], name
    for key in ("spectra", "config", "status"):
        assert ours.info[key] == theirs.info[key], key


def _newest(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").glob("*.eqx")), default="")


def _wait_for_progress(run: Path, before: str, process: subprocess.Popen):
    while process.poll() is None and _newest(run) <= before:
        time.sleep(0.002)


def _wait_for_write(run: Path, process: subprocess.Popen):
    while process.poll() is None:
        for folder in ("checkpoints", "metrics", "snapshots", "."):
            if any(name.endswith(".part") for name in os.listdir(run / folder)):
                return


def _finish(process: subprocess.Popen):
    _, errors = process.communicate()
    if process.returncode:
        raise AssertionError(f"a run that was left alone ended with exit code {process.returncode}: {errors}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = torture(Path(folder), arguments.kills, epochs=100 * arguments.kills + 200, seed=arguments.seed)
    print(f"bit for bit the same: {counts}")
