"""Section `spectrum`: exponents alone, compared with two JAX libraries that compute them."""

import numpy as np

from benchmarks import limits
from benchmarks.epochs import Say
from benchmarks.table import Comparison, Row, show
from benchmarks.turns import paced_contender, take_turns

SIZES = ((80, 16, 300), (80, 40, 300), (256, 16, 300), (256, 128, 300), (1000, 16, 300), (1000, 500, 60))
"""N, k, T. The first tenth of T is the transient."""

PEERS = {"lyapax": "benchmarks.peers_jax:lyapax_spectrum", "chaotax": "benchmarks.peers_jax:chaotax_spectrum"}


def spectrum(say: Say, quick: bool) -> list[Row]:
    """An undriven vanilla network in float64. All are jitted and share the initial state, basis and transient.

    Ours uses the interval that "auto" chooses; the peers apply QR after each step. So does the limit.
    """
    rows = []
    for units, k, steps in ((10, 4, 20),) if quick else SIZES:
        say(f"spectrum, N={units}, k={k}, T={steps}")
        rows += _spectrum(units, k, steps, *((2, 0.01) if quick else (7, 0.3)))
    return rows


def _spectrum(units: int, k: int, steps: int, blocks: int, seconds: float) -> list[Row]:
    size = {"units": units, "k": k, "steps": steps, "transient": steps // 10}
    pace = {"blocks": blocks, "seconds": seconds}
    ours = paced_contender("benchmarks.ours:spectrum", **size, **pace)
    peers = {name: paced_contender(factory, **size, **pace) for name, factory in PEERS.items()}
    best = limits.contenders(units=units, k=k, blocks=blocks, dtype="float64", steps=20)
    take_turns([ours, *peers.values(), *best])
    step = limits.fastest(best, "forward", "qr")
    return [
        Comparison(
            work=f"spectrum alone, N={units}, k={k}, T={steps}, float64",
            unit="s",
            ours=ours.pace,
            peer=name,
            theirs=peer.pace,
            limit=None if step is None else steps * step,
            least_ratio=1.5,
            remark=_remark(ours, peer),
        )
        for name, peer in peers.items()
    ]


def _remark(ours, peer) -> str:
    if ours.result is None or peer.result is None:
        return ours.reason or peer.reason
    difference = np.abs(np.sort(ours.result["exponents"]) - np.sort(peer.result["exponents"])).max()
    remark = f"exponents agree to {difference:.0e}; ours at interval {ours.result['interval']}; "
    remark += f"outside jit {show(ours.result['outside_jit'], 's')}"
    if "as_released" in peer.result:
        remark += f"; jitted by us, as released a call compiles and takes {show(peer.result['as_released'], 's')}"
    return remark
