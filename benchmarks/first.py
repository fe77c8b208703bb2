"""Section `first`: from a call to its first result, beside the time that importing JAX takes."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.epochs import Say
from benchmarks.runs import COMMAND, TINY, environment_with_cache
from benchmarks.table import Comparison, Row

GOALS = {"nn.LSTM, N=128, T=100, k=32": ("module", 5.0), "VanillaRNN, N=80, T=100, k=32": ("cell", 4.0)}
"""What is flossed: how, and the goal for an empty cache, in multiples of the time of `import jax`."""

WARM = 2.0
"""The goal with a filled cache."""

PROGRESS = {"empty": 6.0, "filled": 4.0}
"""The goals for the first line of progress of `flossing train`."""


def first(say: Say, quick: bool) -> list[Row]:
    """The first flossing epoch's loss, in a new process with JAX's cache on disk empty, and then filled."""
    rows = []
    for work, (kind, goal) in GOALS.items():
        found: dict[str, list[dict[str, float]]] = {"empty": [], "filled": []}
        for repetition in range(1 if quick else 5):
            with tempfile.TemporaryDirectory() as folder:
                for cache, results in found.items():
                    say(f"{work}, {cache} cache, {repetition + 1}")
                    results.append(_in_new_process(kind, folder, quick))
        for (cache, results), most in zip(found.items(), (goal, WARM), strict=True):
            seconds, imports = (statistics.median(r[name] for r in results) for name in ("first", "import"))
            rows.append(
                Comparison(
                    f"first flossing epoch, {work}, {cache} cache",
                    "s",
                    seconds,
                    limit=imports,
                    most_distance=most,
                    remark="limit: the time of import jax; the median of five new processes",
                )
            )
    return rows + _progress(say, quick)


def _progress(say: Say, quick: bool) -> list[Row]:
    found: dict[str, list[float]] = {cache: [] for cache in PROGRESS}
    imports = []
    for repetition in range(1 if quick else 5):
        with tempfile.TemporaryDirectory() as folder:
            for cache, times in found.items():
                say(f"first line of flossing train, {cache} cache, {repetition + 1}")
                times.append(_until_progress(folder, ["--delay", "2", *TINY] if quick else ["--delay", "20"]))
                imports.append(_in_new_process("cell", folder, quick=True)["import"])
    limit = statistics.median(imports)
    return [
        Comparison(f"first line of progress, flossing train --delay 20, {cache} cache", "s", statistics.median(times),
                   limit=limit, most_distance=PROGRESS[cache], remark="limit: the time of import jax")
        for cache, times in found.items()
    ]  # fmt: skip


def _until_progress(folder: str, arguments: list[str]) -> float:
    """Seconds from the start of the command until it shows the network's exponents."""
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        command = [*COMMAND, "train", *arguments, "--out", f"{out}/run"]
        environment = environment_with_cache(folder)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as run:
            assert run.stdout is not None
            line = b"no output"
            for line in run.stdout:
                if b"epoch 0/" in line:
                    seconds = time.perf_counter() - begin
                    run.terminate()
                    run.stdout.read()
                    return seconds
    raise RuntimeError(line.decode(errors="replace").strip()[:200])


def _in_new_process(kind: str, cache: str, quick: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.first", kind, "12" if quick else ""]
    environment = environment_with_cache(cache) | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])


def _measure(kind: str, units: str) -> dict[str, float]:
    begin = time.perf_counter()
    import jax

    imported = time.perf_counter() - begin
    call: Any
    if kind == "module":
        import torch

        import flossing.pytorch as flt

        module, inputs = torch.nn.LSTM(1, int(units or 128)), torch.randn(100, 1)
        torch.optim.Adam(module.parameters()).zero_grad()  # the first optimiser of a process loads torch's compiler
        k = 4 if units else 32

        def call():
            return float(flt.floss(module, inputs, k=k, epochs=1, report=False).loss[0])
    else:
        import flossing as fl

        cell = fl.cells.VanillaRNN(int(units or 80), 1, key=jax.random.key(0))
        inputs = jax.random.normal(jax.random.key(1), (100, 1))
        k = 4 if units else 32

        def call():
            return float(fl.floss(cell, inputs, k=k, epochs=1, report=False)[1].loss[0])

    begin = time.perf_counter()
    call()
    return {"first": time.perf_counter() - begin, "import": imported}


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
