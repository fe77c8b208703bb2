"""How the spectrum of a chaotic random network approaches its limit as N grows; run once, its result is committed.

    python -m verification.trend        about half an hour on two cores; writes verification/trend.json

x' = x/2 + J tanh(x)/2 with gain 3, where the theory for N to infinity is known (D. G. Clark, arXiv 2610.12426), and
with gain 1.25, near the onset of chaos, where networks of these sizes are far from it.
"""

import json
from pathlib import Path

import jax
import numpy as np

import flossing as fl
from verification.whole_spectra import KEY, random_network

RUNS = (
    (3.0, 125, 8, 2000), (3.0, 250, 6, 2000), (3.0, 500, 4, 1200), (3.0, 1000, 2, 700), (3.0, 2000, 1, 500),
    (1.25, 125, 8, 4000), (1.25, 250, 6, 4000), (1.25, 500, 4, 2000), (1.25, 1000, 2, 1000),
)  # fmt: skip
"""Gain, units, networks and steps averaged of each row."""

FILE = Path(__file__).parent / "trend.json"


def measure(gain: float, units: int, nets: int, steps: int) -> dict:
    """Dimension and entropy per unit, and the shares of exponents below 0 and below -1.086; of each network."""
    found = []
    for net in range(nets):
        run = {"steps": steps + 400, "transient": 400, "interval": 5, "k": round(0.45 * units)}
        exponents, _ = random_network(units, gain, jax.random.fold_in(KEY, 20 * units + net), **run)
        shares = [1 - float((exponents >= s).sum()) / units for s in (0, -1.086)]
        dimension, entropy = fl.kaplan_yorke_dimension(exponents), fl.entropy_rate(exponents)
        found.append([float(exponents[0]), float(dimension) / units, float(entropy) / units, *shares])
    names = ("lambda_1", "dimension", "entropy", "below_0", "below_-1.086")
    values = {name: [round(v, 6) for v in column] for name, column in zip(names, np.array(found).T, strict=True)}
    return {"gain": gain, "units": units, "steps": steps} | values


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    rows = []
    for run in RUNS:
        rows.append(measure(*run))
        print(json.dumps(rows[-1]), flush=True)
        FILE.write_text("[\n" + ",\n".join(" " + json.dumps(row) for row in rows) + "\n]\n", "utf-8")
