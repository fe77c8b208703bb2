"""Section `large`: flossing epochs of large networks, dense ones against PyTorch, sparse ones against dense ones."""

from typing import Any

from benchmarks import limits
from benchmarks.epochs import Say, decompositions, default_transient, least, thread_remark
from benchmarks.table import Comparison, Row
from benchmarks.turns import Contender, Turn, paced_contender, take_turns

DENSE = {"units": 1000, "steps": 500, "k": 100}
LEAST_RATIO = 3.0
"""Ours against eager PyTorch."""

SPARSE = {"units": 2000, "steps": 200, "k": 32}
SHARE = 0.05
"""Each unit is connected to this share of all."""

BLOCKS, CHUNK = 4, 2


def large(say: Say, quick: bool) -> list[Row]:
    """A dense network of 1000 units, and a sparse one of 2000 by a step of the user's own."""
    dense, sparse = ({"units": 20, "steps": 12, "k": 4},) * 2 if quick else (DENSE, SPARSE)
    return [*_dense(say, dense), *_sparse(say, sparse)]


def _dense(say: Say, size: dict[str, Any]) -> list[Row]:
    work = "flossing epoch, N={units}, T={steps}, k={k}".format(**size)
    say(work)
    ours = Contender("benchmarks.ours:flossing_phase", blocks=BLOCKS, chunk=CHUNK, **size)
    peer = {"transient": default_transient(size["steps"]), "blocks": BLOCKS, "seconds": 0.01, **size}
    eager = [paced_contender("benchmarks.peers_torch:flossing", threads=threads, **peer) for threads in (2, 1)]
    best = limits.contenders(units=size["units"], k=size["k"], blocks=BLOCKS)
    take_turns([ours, *eager, *best])
    limit, products = None, limits.fastest(best, "forward", "backward", "weights")
    if products is not None and ours.result is not None:
        counts = decompositions(ours.result["interval"], size["steps"], peer["transient"])
        limit = size["steps"] * products + counts * limits.fastest(best, "qr")
    return [
        Comparison(
            work,
            "s",
            ours.mean,
            "PyTorch, eager",
            least([each.pace for each in eager]),
            limit=limit,
            least_ratio=LEAST_RATIO,
            remark="; ".join(filter(None, [ours.reason, thread_remark(eager)])),
        )
    ]


def _sparse(say: Say, size: dict[str, Any]) -> list[Row]:
    work = f"{SHARE:.0%} of the connections, " + "N={units}, T={steps}, k={k}".format(**size)
    say(f"flossing epoch, {work}")
    sparse, dense = (
        Contender("benchmarks.large:flossing_of_own_step", is_sparse=each, blocks=BLOCKS, chunk=CHUNK, **size)
        for each in (True, False)
    )
    take_turns([sparse, dense])

    def of(contender: Contender) -> float | None:
        return None if contender.result is None else contender.result["resident"]

    remark = "QR after every step; the sparse step gathers the inputs of each unit"
    peer = "the same as a dense matrix"
    return [
        Comparison(f"flossing epoch, {work}", "s", sparse.mean, peer, dense.mean, least_ratio=1.0, remark=remark),
        Comparison(f"peak resident memory, {work}", "B", of(sparse), peer, of(dense)),
    ]


def flossing_of_own_step(
    turn: Turn, *, units: int, steps: int, k: int, is_sparse: bool, blocks: int, chunk: int
) -> dict[str, Any]:
    """A contender: `fl.floss` of h' = tanh(J h + s), with `SHARE` of the entries of J; peak `resident` bytes."""
    import resource

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import flossing as fl

    rng, inputs = np.random.default_rng(0), max(1, round(SHARE * units))
    index = np.stack([rng.choice(units, inputs, replace=False) for _ in range(units)])
    values = (rng.normal(size=index.shape) / np.sqrt(inputs)).astype(np.float32)
    J = np.zeros((units, 0 if is_sparse else units), np.float32)
    if not is_sparse:
        np.put_along_axis(J, index, values, axis=1)
    sources, model = jnp.asarray(index), jnp.asarray(values if is_sparse else J)

    def sparse_step(values, h, s):
        return jnp.tanh((values * h[sources]).sum(1) + s)

    def dense_step(J, h, s):
        return jnp.tanh(J @ h + s)

    def draw(key):
        return jax.random.bernoulli(key, shape=(steps, 1)).astype(np.float32)

    options: dict[str, Any] = {
        "state": jnp.zeros(units),
        "step": sparse_step if is_sparse else dense_step,
        "k": k,
        "interval": 1,
    }
    options |= {"loss": fl.losses.exponents, "optimiser": optax.adam(1e-4), "report": False, "chunk": chunk}

    def end(done: int, model: Any, record: Any):
        turn(chunk)

    fl.floss(model, draw, epochs=chunk, **options)
    turn()
    fl.floss(model, draw, epochs=blocks * chunk, callback=end, **options)
    # Linux counts in KiB.
    return {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
