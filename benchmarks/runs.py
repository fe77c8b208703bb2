"""Sections `run`, `start` and `many`: whole command-line runs, a second start, and two workers against one."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.epochs import Say, least
from benchmarks.table import Comparison, Row
from benchmarks.turns import Contender, Turn, shared_cores

COMMAND = [sys.executable, "-m", "flossing_lab.cli"]
EPOCHS = {"training": 3001, "flossing": 1500}
TINY = (
    "--units 10 --k 4 --batch 3 --steps 20 --window 12 --flossing-steps 20 --epochs 12 --preflossing 5 "
    "--interflossing 4 --every 6 --blocks 1"
).split()
SHORT = "--epochs 201 --preflossing 100 --interflossing 50 --blocks 1".split()


def whole_run(say: Say, quick: bool) -> list[Row]:
    """The reference run as a command, including start-up and compilation, with an empty and then a filled cache."""
    training, flossing = (12, 9) if quick else (60, 30)
    total = {"training": 12, "flossing": 9} if quick else EPOCHS
    part = ["--training", str(training), "--flossing", str(flossing)]
    small = "--units 10 --k 4 --batch 3 --steps 20 --window 12 --delay 2".split() if quick else []
    first, second, eager, reason = [], [], {2: [], 1: []}, ""
    for repetition in range(1 if quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            for threads in eager:
                say(f"whole run {repetition + 1}: PyTorch, {threads} thread(s), a part")
                seconds, remark = _torch([*part, *small, "--threads", str(threads)], training, flossing, total)
                eager[threads] += [] if seconds is None else [seconds]
                reason = remark or reason
            for name, times in (("first", first), ("second", second)):
                say(f"whole run {repetition + 1}: ours, {name} start")
                arguments = ["--delay", "2", *TINY] if quick else ["--delay", "20"]
                times.append(_timed([*COMMAND, "train", *arguments, "--out", f"{folder}/{name}"], folder)[0])
    theirs = least([statistics.median(times) if times else None for times in eager.values()])
    work = f"whole run: {total['training']} training and {total['flossing']} flossing epochs"
    remark = reason or f"from {training} training and {flossing} flossing epochs and start-up, extrapolated linearly"
    ours, again = statistics.median(first), statistics.median(second)
    return [
        Comparison(work, "s", ours, "PyTorch, eager", theirs, least_ratio=5, remark=remark),
        Comparison(f"{work}, second start", "s", again, "PyTorch, eager", theirs, least_ratio=6, remark=remark),
    ]


def _torch(arguments: list[str], training: int, flossing: int, total: dict) -> tuple[float | None, str]:
    try:
        seconds, output = _timed([sys.executable, "-m", "benchmarks.torch_run", *arguments])
    except RuntimeError as error:
        return None, str(error)
    each = json.loads(output.splitlines()[-1])
    start = seconds - training * each["training"] - flossing * each["flossing"]
    return start + sum(total[kind] * each[kind] for kind in each), ""


def start(say: Say, quick: bool) -> list[Row]:
    """The same command twice, into different directories, with a user cache that is empty the first time."""
    counts, seconds = {"first": [], "second": []}, {"first": [], "second": []}
    for repetition in range(1 if quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            for name in counts:
                say(f"{name} start {repetition + 1}")
                file = Path(folder) / "counts.json"
                arguments = ["--delay", "2", *TINY] if quick else ["--delay", "20", *SHORT]
                command = [sys.executable, "-m", "benchmarks.counted", str(file), "train", *arguments]
                took, _ = _timed([*command, "--out", f"{folder}/{name}"], folder)
                counts[name].append(json.loads(file.read_text()))
                seconds[name].append(took)
    missed = {name: max(count["misses"] for count in counts[name]) for name in counts}
    again, before = (statistics.median(seconds[name]) for name in ("second", "first"))
    remark = f"of {counts['second'][0]['programs']} programs"
    length = "tiny" if quick else "short (201 training and 150 flossing epochs)"
    return [
        Comparison(
            "programs compiled at a start", "", missed["second"], "first start", missed["first"], most=0, remark=remark
        ),
        Comparison(f"a {length} run, second start", "s", again, "first start", before),
    ]


def many(say: Say, quick: bool) -> list[Row]:
    """Two workers, each with its own core and one thread, against one alone."""
    cores = sorted(shared_cores())
    if len(cores) < 2:
        return [Comparison("two workers", "/h", None, "one worker", None, least_ratio=1.9, remark="one core only")]
    from flossing_lab.runs.process import ONE_THREAD

    cycles = 1 if quick else 5
    say("two workers against one")
    arguments = {"count": 2 * cycles, "tiny": quick, "environment": ONE_THREAD}
    workers = [Contender("benchmarks.runs:small_runs", seed=100 * core, cores=[core], **arguments) for core in cores]
    alone, together = [], []
    for worker in workers:
        worker.wait()
    for cycle in range(cycles):
        for worker in workers:
            worker.go()
            worker.wait()
        for worker in workers:
            worker.go()
        for worker in workers:
            worker.wait()
        reason = next((worker.reason for worker in workers if worker.reason), "")
        if reason:
            return [Comparison("two workers", "/h", None, "one worker", None, least_ratio=1.9, remark=reason)]
        alone += [worker.blocks[2 * cycle][0] for worker in workers]
        together.append(max(worker.blocks[2 * cycle + 1][0] for worker in workers))
    for worker in workers:
        worker.go()
        worker.wait()
    ours, theirs = 2 * 3600 / statistics.median(together), 3600 / statistics.median(alone)
    return [Comparison("runs of 100 epochs by two workers", "/h", ours, "one worker alone", theirs, least_ratio=1.9)]


def small_runs(turn: Turn, *, count: int, seed: int, tiny: bool):
    """A contender: short runs of the reference experiment, one per block, after a first run that compiles."""
    from flossing_lab.reference.config import Config
    from flossing_lab.runs.run import run

    values = {"epochs": 100, "preflossing": 50, "condition": "before", "delay": 20}
    if tiny:
        values |= {"units": 10, "k": 4, "batch": 3, "steps": 40, "delay": 2, "epochs": 12, "preflossing": 5}
        values |= {"window": 12, "flossing_steps": 20}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count + 1):
            run(Config().with_values(seed=seed + number, **values), Path(folder) / str(number))
            turn()


def _timed(command: list[str], cache: str | None = None) -> tuple[float, str]:
    # Seconds and output of a command; RuntimeError with its last line if it fails.
    environment = dict(os.environ) if cache is None else environment_with_cache(cache)
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
    return seconds, done.stdout


def environment_with_cache(folder: str) -> dict[str, str]:
    """This process's environment, with `folder` as the user's cache directory and no other cache of JAX."""
    return {name: v for name, v in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | {
        "XDG_CACHE_HOME": folder
    }
