"""Sections `batches` and `ragged`: flossing on many sequences at once, and batches of many lengths."""

import time
from typing import Any

import numpy as np

from benchmarks.epochs import Say, default_transient, least, thread_remark
from benchmarks.table import Comparison, Row
from benchmarks.turns import Contender, Turn, paced_contender, take_turns

SIZES = (("nn.LSTM", 128, 32, 100), ("nn.RNN", 128, 64, 100))
"""Module, units, k, T."""

BATCHES = (8, 32)
THREADS = (2, 1)
RAGGED = {"cell": "nn.LSTM", "units": 128, "k": 32}
SEQUENCES = (1, 8)
"""Sequences in a batch of the section `ragged`."""


def batches(say: Say, quick: bool) -> list[Row]:
    """A flossing epoch on B sequences: value, gradient and Adam. Ours is the mean over a call, at its own interval."""
    rows = []
    for cell, units, k, steps in (("nn.LSTM", 12, 4, 24),) if quick else SIZES:
        for batch in (2,) if quick else BATCHES:
            say(f"{cell}, N={units}, T={steps}, k={k}, {batch} sequences")
            size = {"cell": cell, "units": units, "k": k, "steps": steps, "batch": batch}
            pace = {"blocks": 2, "chunk": 3} if quick else {"blocks": 3, "chunk": 10}
            ours = [Contender("benchmarks.batches:phase", threads=threads, **pace, **size) for threads in THREADS]
            peer = {"transient": default_transient(steps), "blocks": pace["blocks"], "seconds": 0.01, **size}
            eager = [paced_contender("benchmarks.peers_batches:flossing", threads=n, **peer) for n in THREADS]
            take_turns([*ours, *eager])
            rows.append(
                Comparison(
                    work=f"{cell}, N={units}, T={steps}, k={k}, {batch} sequences",
                    unit="s",
                    ours=least([each.mean for each in ours]),
                    peer="PyTorch, eager, batched",
                    theirs=least([each.pace for each in eager]),
                    least_ratio=4.0,
                    remark="; ".join([*(c.reason for c in ours if c.reason), thread_remark(eager)]),
                )
            )
    return rows


def phase(turn: Turn, *, cell: str, units: int, k: int, steps: int, batch: int, blocks: int, chunk: int, threads: int):
    """A contender: one call of `flossing.pytorch.floss` with the loss of the paper, whose callback ends each block."""
    import flossing.pytorch as flt
    from benchmarks import peers_batches, peers_modules  # imports torch, in the contender's process only

    peers_modules.set_threads(threads)
    options: dict[str, Any] = {"basis": peers_modules.drawn_basis(cell, units, k), "chunk": chunk, "report": False}
    options |= {"loss": flt.losses.exponents, "clip": None}

    def run(epochs: int, callback: Any = None):
        module = peers_modules.drawn_module(cell, units)
        return flt.floss(
            module, lambda: peers_batches.random_bits(steps, batch), epochs=epochs, callback=callback, **options
        )

    run(chunk)  # compiles
    turn()
    run(blocks * chunk, lambda done, model, record: turn(chunk))


def ragged(say: Say, quick: bool) -> list[Row]:
    """Loss and gradient of twenty batches of twenty lengths: the first time, with compilation, and again."""
    lengths = (6, 9, 14) if quick else _twenty_lengths()
    size, rows = RAGGED | ({"units": 12, "k": 4} if quick else {}), []
    for batch in SEQUENCES:
        say(f"{len(lengths)} batches of lengths {min(lengths)} to {max(lengths)}, {batch} sequence(s) each")
        rows += _ragged(lengths, batch=batch, **size)
    return rows


def _ragged(lengths: tuple[int, ...], **size: Any) -> list[Row]:
    function = "benchmarks.batches:pass_through"
    runs = {
        who: [Contender(function, who=who, threads=threads, lengths=lengths, **size) for threads in THREADS]
        for who in ("ours", "eager")
    }
    take_turns([each for pair in runs.values() for each in pair])
    reason = "; ".join(each.reason for pair in runs.values() for each in pair if each.reason)
    first, again, programs = _best(runs["ours"])
    theirs = least(_best(runs["eager"])[:2])
    batch = size["batch"]
    sequences = "single sequences" if batch == 1 else f"batches of {batch} sequences"
    work = f"{len(lengths)} {sequences} of {min(lengths)} to {max(lengths)} steps, nn.LSTM"
    peer = "PyTorch, eager" if batch == 1 else "PyTorch, eager, batched"
    return [
        Comparison(f"{work}, compilation included", "s", first, peer, theirs, least_ratio=2.0, remark=reason),
        Comparison(f"{work}, again", "s", again, peer, theirs, least_ratio=4.0, remark=reason),
        Comparison(f"sizes compiled for {sequences}", "", programs, most=2),
    ]


def _best(contenders: list[Contender]) -> list[float | None]:
    """The least of each number that these contenders returned."""
    return [least(list(each)) for each in zip(*(c.result or (None,) * 3 for c in contenders), strict=True)]


def _twenty_lengths() -> tuple[int, ...]:
    drawn = np.random.default_rng(0).permutation(np.arange(51, 200))[:18]
    return tuple(map(int, [50, *drawn, 200]))


def pass_through(
    turn: Turn, *, who: str, lengths: tuple[int, ...], cell: str, units: int, k: int, batch: int, threads: int
) -> tuple[float, float, int]:
    """A contender: seconds of the first and of the second pass through all batches, and the programs compiled."""
    import torch

    import flossing.pytorch as flt
    from benchmarks import peers_batches, peers_modules
    from flossing.pytorch import _jax_engine

    peers_modules.set_threads(threads)
    module, basis = peers_modules.drawn_module(cell, units), peers_modules.drawn_basis(cell, units, k)

    def ours(inputs: torch.Tensor) -> torch.Tensor:
        transient = default_transient(len(inputs))
        return flt.lyapunov_spectrum(module, inputs, k=k, transient=transient).exponents.square().mean()

    def eager(inputs: torch.Tensor) -> torch.Tensor:
        return peers_batches.batch_loss(cell, module, inputs, basis, default_transient(len(inputs)))

    loss, along = {"ours": ours, "eager": eager}[who], [peers_batches.random_bits(steps, batch) for steps in lengths]

    def once() -> float:
        begin = time.perf_counter()
        for inputs in along:
            module.zero_grad()
            loss(inputs).backward()
        return time.perf_counter() - begin

    eager(along[0][:4])  # torch's own first call takes a while
    turn()
    first = once()
    turn()
    return first, once(), _jax_engine._jitted_flow()._cache_size() if who == "ours" else 0
