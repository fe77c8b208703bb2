"""Section `pytorch`: flossing of PyTorch modules and of a custom step, against eager PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.epochs import Say, default_transient, least, thread_remark
from benchmarks.table import Comparison, Row, show
from benchmarks.turns import Contender, Turn, paced_contender, take_turns

SIZES = ((64, 200, 16), (80, 55, 75))
"""Units, T, k."""

CELLS = ("nn.RNN", "nn.GRU", "nn.LSTM")
BLOCKS, CHUNK = 20, 25
"""Number of turns, and our flossing epochs per turn: a phase of 500, as in the reference."""

SECONDS = 0.5
"""Length of a peer's turn in seconds, or one epoch if that is longer."""

THREADS = (2, 1)


def modules(say: Say, quick: bool) -> list[Row]:
    """Flossing epochs: value, gradient and Adam. Ours is the mean over 500 epochs from torch's initial weights."""
    rows = []
    pace = {"blocks": 2, "chunk": 3, "seconds": 0.01} if quick else dict(blocks=BLOCKS, chunk=CHUNK, seconds=SECONDS)
    for units, steps, k in ((12, 24, 4),) if quick else SIZES:
        for cell in CELLS:
            say(f"{cell}, N={units}, T={steps}, k={k}")
            rows.append(_module(cell, units, steps, k, **pace))
        say(f"custom step, N={units}, T={steps}, k={k}")
        rows += _function(units, steps, k, **pace)
    return rows


def _module(cell: str, units: int, steps: int, k: int, *, blocks: int, chunk: int, seconds: float) -> Row:
    size = {"cell": cell, "units": units, "steps": steps, "k": k}
    run = "benchmarks.modules:phase"
    ours = [Contender(run, blocks=blocks, chunk=chunk, threads=threads, **size) for threads in THREADS]
    peer = {"transient": default_transient(steps), "blocks": blocks, "seconds": seconds, **size}
    eager = [paced_contender("benchmarks.peers_modules:module", threads=threads, **peer) for threads in THREADS]
    take_turns([*ours, *eager])
    return Comparison(
        work=f"{cell}, N={units}, T={steps}, k={k}",
        unit="s",
        ours=least([p.mean for p in ours]),
        peer="PyTorch, eager",
        theirs=least([p.pace for p in eager]),
        least_ratio=4.0,
        remark="; ".join([*_said(ours), thread_remark(eager)]),
    )


def _function(units: int, steps: int, k: int, *, blocks: int, chunk: int, seconds: float) -> list[Row]:
    size = {"units": units, "steps": steps, "k": k}
    run = "benchmarks.modules:phase"
    ours = [Contender(run, cell=None, blocks=blocks, chunk=chunk, threads=threads, **size) for threads in THREADS]
    peer = {"transient": default_transient(steps), "blocks": blocks, "seconds": seconds, **size}
    run = "benchmarks.peers_modules:function"
    jacobians, derived = (
        [paced_contender(run, derived=by_hand, threads=threads, **peer) for threads in THREADS]
        for by_hand in (False, True)
    )
    take_turns([*ours, *jacobians, *derived])
    common = {
        "work": f"custom step, N={units}, T={steps}, k={k}",
        "unit": "s",
        "ours": least([p.mean for p in ours]),
    }
    remark = _said(ours)
    return [
        Comparison(
            peer="PyTorch, eager, torch.func.jacrev",
            theirs=least([p.pace for p in jacobians]),
            least_ratio=1.0,
            remark="; ".join([*remark, thread_remark(jacobians)]),
            **common,
        ),
        Comparison(
            peer="PyTorch, eager, tangents derived by hand",
            theirs=least([p.pace for p in derived]),
            remark=thread_remark(derived),
            **common,
        ),
    ]


def _said(ours: Sequence[Contender]) -> list[str]:
    """Remarks: our intervals, and our time on two threads and on one."""
    if any(each.result is None for each in ours):
        return [each.reason for each in ours if each.reason]
    first, middle = ours[0].result[0], np.median(ours[0].result)
    listed = "ours on 2 threads {}, on 1 {}".format(*(show(each.mean, "s") for each in ours))
    return [f"interval {first} at first, {middle:g} in the median", listed]


def phase(
    turn: Turn, *, cell: str | None, units: int, steps: int, k: int, blocks: int, chunk: int, threads: int
) -> np.ndarray:
    """A contender: one call of `flossing.pytorch.floss`, whose callback ends each block; returns the intervals.

    Loss and optimiser are those of the peer. `cell` is None for the custom step.
    """
    import torch  # in the contender's process only

    import flossing.pytorch as flt
    from benchmarks import peers_modules as peers

    peers.set_threads(threads)
    options: dict[str, Any] = {"basis": peers.drawn_basis(cell, units, k), "epochs": blocks * chunk}
    options |= {"loss": flt.losses.exponents, "clip": None, "optimiser": torch.optim.Adam, "report": False}

    def run(callback):
        options.update(callback=callback, chunk=chunk)
        if cell is not None:
            return flt.floss(peers.drawn_module(cell, units), lambda: peers.random_bits(steps), **options)
        step, parameters = peers.tanh_network(units)
        more = {"state": options["basis"].new_zeros(units), "parameters": parameters}
        return flt.floss(step, lambda: peers.random_bits(steps), **more, **options)

    run(None)  # a first pass compiles all intervals
    turn()
    return run(lambda done, model, record: turn(chunk)).interval.numpy()
