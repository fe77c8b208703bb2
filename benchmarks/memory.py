"""Section `memory`: value and gradient over long windows, with and without rematerialisation."""

import os
from pathlib import Path
from typing import Any

from benchmarks.epochs import Say
from benchmarks.table import Comparison, Row
from benchmarks.turns import Contender, Turn, take_turns

UNITS, K = 512, 128
STEPS = (256, 512, 1024, 2048, 4096)
INTERVALS = (1, 8)
"""At 1, rematerialisation repeats every QR decomposition of the forward pass; flossing soon uses longer intervals."""

LEAST_RATIO = 1 / 1.4
"""Rematerialisation may take at most 1.4 times as long."""

SHARE = 0.6
"""Runs that need more than this share of the free memory are skipped."""


def memory(say: Say, quick: bool) -> list[Row]:
    """Peak memory of one flossing epoch, by XLA's analysis and as resident memory, and the cost in time."""
    rows = []
    for steps in (16, 32) if quick else STEPS:
        size = {"units": 16 if quick else UNITS, "k": 4 if quick else K, "steps": steps}
        work = "value and gradient, N={units}, k={k}, T={steps}".format(**size)
        for interval in INTERVALS:
            say(f"memory, {work}, interval {interval}")
            options = {"blocks": 1 if quick else 3 if steps > 1024 else 5, "interval": interval, **size}
            plain, saving = (Contender("benchmarks.memory:probe", saving=saving, **options) for saving in (False, True))
            take_turns([plain, saving])
            rows += _rows(work, interval, plain, saving)
    return rows


def _rows(work: str, interval: int, plain: Contender, saving: Contender) -> list[Row]:
    def of(contender, name):
        return None if contender.result is None else contender.result[name]

    def row(what, unit, ours, theirs, **goal):
        return Comparison(what, unit, ours, "without rematerialisation", theirs, remark=reason, **goal)

    reason = saving.reason or plain.reason or of(saving, "reason") or of(plain, "reason") or ""
    time = f"time of {work}, QR after {interval} step{'s' * (interval > 1)}"
    times = row(time, "s", saving.pace, plain.pace, least_ratio=LEAST_RATIO)
    if interval != INTERVALS[0]:
        return [times]  # memory does not depend on the interval
    sizes = {"temporary": "temporary memory (XLA)", "resident": "peak resident memory"}
    return [
        *(row(f"{what} of {work}", "B", of(saving, name), of(plain, name)) for name, what in sizes.items()),
        times,
    ]


def probe(turn: Turn, *, units: int, k: int, steps: int, interval: int, saving: bool, blocks: int) -> dict[str, Any]:
    """A contender: `temporary` bytes of the compiled epoch, and the peak `resident` bytes of its process.

    As in `floss`, LAPACK runs on one thread.
    """
    import resource

    import jax
    import jax.numpy as jnp

    import flossing as fl
    from benchmarks import ours, starts
    from flossing._runtime.threads import one_lapack_thread

    numbers = starts.flossing_start(units, k)
    cell = ours.cell_of(numbers)
    flossing = fl.Flossing(
        cell,
        ours.random_bits(steps),
        state=jnp.asarray(numbers["h"]),
        basis=numbers["basis"],
        where=ours.flossed_leaves,
        loss=fl.losses.exponents,
        optimiser=ours.keep_gradient(),
        interval=interval,
        rematerialise=saving,
    )
    arguments = flossing, cell, flossing.init(cell), jax.random.key(1)
    compiled = ours.update_once().lower(*arguments).compile()
    temporary = compiled.compiled.memory_analysis().temp_size_in_bytes
    if temporary > SHARE * available():
        return {"temporary": temporary, "resident": None, "reason": "skipped, too large for this machine"}
    with one_lapack_thread():
        jax.block_until_ready(compiled(*arguments)[2].loss)  # slower: touches new memory pages
        turn()
        for _ in range(blocks):
            jax.block_until_ready(compiled(*arguments)[2].loss)
            turn()
    # Linux counts in KiB. The peak includes JAX itself and its compiler, a few hundred MiB.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"temporary": temporary, "resident": resident, "reason": ""}


def available() -> int:
    """Available memory in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
