"""Sections `flossing` and `training`: epochs of ours against PyTorch, plain JAX and the machine's limit."""

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import limits
from benchmarks.table import Comparison, Precision, Row
from benchmarks.turns import Contender, in_process, paced_contender, take_turns

Say = Callable[[str], None]

FLOSSING = (  # N, T, k, and the goal: the speed-up over eager PyTorch
    (64, 512, 16, 4.0),
    (80, 55, 75, 4.0),
    (80, 300, 75, 4.0),
    (256, 100, 64, 3.0),
)
BLOCKS, CHUNK = 20, 25
"""Number of turns, and our flossing epochs per turn: a phase of 500."""

SECONDS = 0.5
"""Length of a peer's turn in seconds, or one epoch if that is longer."""

QUIET = {"PYTHONWARNINGS": "ignore", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""torch.compile warns about its own deprecated functions and leaves compiler processes running."""

BOUND = 5.0
"""Float32 gradients are compared with float64 only where lambda_1 T is below this."""


def flossing(say: Say, quick: bool) -> list[Row]:
    """Flossing epochs: value, gradient and Adam. Ours is the mean over the first 500 epochs."""
    sizes = ((12, 24, 4, None),) if quick else FLOSSING
    comparisons, precisions = [], []
    for units, steps, k, goal in sizes:
        say(f"flossing epoch, N={units}, T={steps}, k={k}")
        rows = _flossing(units, steps, k, goal, *((3, 4, 0.01) if quick else (BLOCKS, CHUNK, SECONDS)))
        comparisons += [row for row in rows if isinstance(row, Comparison)]
        precisions += [row for row in rows if isinstance(row, Precision)]
    return comparisons + precisions


def default_transient(window: int) -> int:
    """Our default transient, without importing JAX."""
    return min(10 + -(-window // 10), window // 2)


def decompositions(intervals: np.ndarray, steps: int, transient: int) -> float:
    """Mean number of QR decompositions per epoch in a phase with these intervals."""
    counts = [len({*range(m, steps + 1, m), steps} | ({transient} - {0})) for m in intervals.tolist()]
    return float(np.mean(counts))


def _flossing(units, steps, k, goal, blocks, chunk, seconds) -> list[Row]:
    size = {"units": units, "steps": steps, "k": k}
    transient = default_transient(steps)
    pace = {"blocks": blocks, "seconds": seconds}
    ours = Contender("benchmarks.ours:flossing_phase", blocks=blocks, chunk=chunk, **size)
    peer = {"transient": transient, **size, **pace}
    eager = [paced_contender("benchmarks.peers_torch:flossing", threads=threads, **peer) for threads in (2, 1)]
    compiled = paced_contender("benchmarks.peers_torch:flossing", environment=QUIET, threads=2, compiled=True, **peer)
    naive = paced_contender("benchmarks.peers_jax:flossing", **peer)
    best = limits.contenders(units=units, k=k, blocks=blocks)
    take_turns([ours, *eager, compiled, naive, *best])

    work = f"flossing epoch, N={units}, T={steps}, k={k}"
    limit, precision, remark = None, [], ours.reason
    if ours.result is not None:
        intervals = ours.result["interval"]
        remark = f"interval {intervals[0]} at first, {np.median(intervals):g} in the median"
        products = limits.fastest(best, "forward", "backward", "weights")
        if products is not None:
            limit = steps * products + decompositions(intervals, steps, transient) * limits.fastest(best, "qr")
        precision = [_precision(work, units, steps, k, ours.result)]
    common = {"work": work, "unit": "s", "ours": ours.mean, "limit": limit}
    common["error"] = precision[0].automatic if precision else None
    return [
        Comparison(
            peer="PyTorch, eager",
            theirs=least([p.pace for p in eager]),
            least_ratio=goal,
            remark="; ".join(filter(None, [remark, thread_remark(eager)])),
            **common,
        ),
        Comparison(peer="PyTorch, torch.compile of the step", theirs=compiled.pace, remark=compiled.reason, **common),
        Comparison(peer="JAX, plain", theirs=naive.pace, remark=naive.reason, **common),
        *precision,
    ]


def _precision(work, units, steps, k, phase) -> Precision:
    common = {"units": units, "k": k, "samples": phase["samples"]}
    run = "benchmarks.ours:gradients"
    automatic = in_process(run, dtype="float32", every_step=False, **common)["gradient"]
    single = in_process(run, dtype="float32", every_step=True, **common)["gradient"]
    double = in_process(run, dtype="float64", every_step=True, **common)
    bounded = double["largest_exponent"] * steps < BOUND
    reference, intervals = double["gradient"][bounded], phase["interval"]
    return Precision(
        work,
        (float(np.median(intervals)), int(intervals.min()), int(intervals.max())),
        len(automatic),
        spread(relative_errors(automatic, single)),
        int(bounded.sum()),
        spread(relative_errors(automatic[bounded], reference)) if bounded.any() else None,
        spread(relative_errors(single[bounded], reference)) if bounded.any() else None,
    )


def relative_errors(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Relative errors in the 2-norm, row by row."""
    return np.linalg.norm(ours - reference, axis=1) / np.linalg.norm(reference, axis=1)


def spread(errors: np.ndarray) -> tuple[float, float]:
    """Median and maximum."""
    return float(np.median(errors)), float(np.max(errors))


def training(say: Say, quick: bool) -> list[Row]:
    """Training epochs of the reference experiment: loss, gradient, clipping of each array, Adam."""
    size = {"units": 12, "batch": 4, "steps": 20} if quick else {"units": 80, "batch": 16, "steps": 300}
    say("training epoch, N={units}, B={batch}, T={steps}".format(**size))
    blocks = 2 if quick else BLOCKS
    arguments = {"delay": 2 if quick else 20, "blocks": blocks, "seconds": 0.01 if quick else SECONDS, **size}
    ours = paced_contender("benchmarks.ours:training", **arguments)
    eager = [paced_contender("benchmarks.peers_torch:training", threads=threads, **arguments) for threads in (2, 1)]
    naive = paced_contender("benchmarks.peers_jax:training", **arguments)
    best = limits.contenders(units=size["units"], k=size["batch"], blocks=blocks, tanh=True)
    take_turns([ours, *eager, naive, *best])
    step = limits.fastest(best, "forward", "backward", "weights", "tanh")
    common = {
        "work": "training epoch, N={units}, B={batch}, T={steps}".format(**size),
        "unit": "s",
        "ours": ours.pace,
        "limit": None if step is None else size["steps"] * step,
    }
    remark = "; ".join(filter(None, [ours.reason, thread_remark(eager)]))
    eager_pace = least([p.pace for p in eager])
    return [
        Comparison(peer="PyTorch, eager", theirs=eager_pace, most_distance=1.5, remark=remark, **common),
        Comparison(peer="JAX, plain", theirs=naive.pace, remark=naive.reason, **common),
    ]


def least(values: Sequence[float | None]) -> float | None:
    """The smallest of the values that are not None."""
    return min((value for value in values if value is not None), default=None)


def thread_remark(eager: Sequence[Contender]) -> str:
    """The faster thread count of PyTorch, or the reason for a missing number."""
    two, one = eager
    if two.pace is None or one.pace is None:
        return two.reason or one.reason
    return f"PyTorch on {'2 threads' if two.pace <= one.pace else '1 thread'}, the better"
