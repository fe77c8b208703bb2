"""What we do otherwise than the released code, and its effect on ten networks; run once, its result is committed.

    python -m verification.released     about 40 minutes of one core; continues; writes verification/released.json

Each row trains the reference experiment with the seeds 1 to 10. Two rows of a pair differ in one thing. `repeated`
draws the inputs of flossing as the released code seeds them, by E sIn + epoch + i: 1500 flossing epochs then see 699
sequences.
"""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flossing._training.chunk import FlossingEpoch
from flossing_lab.reference.config import Config
from flossing_lab.reference.experiment import draw_model
from flossing_lab.runs.run import run

SEEDS = range(1, 11)
FILE = Path(__file__).parent / "released.json"

ROWS: dict[str, dict[str, Any]] = {
    "inputs fresh": {"delay": 20},
    "inputs repeated": {"delay": 20},
    "orthogonal, uniform": {"delay": 20, "condition": "before", "recurrent": "orthogonal"},
    "orthogonal, signs of LAPACK": {"delay": 20, "condition": "before", "recurrent": "lapack"},
    "task 2, history drawn": {"order": 2, "first_scored": 20, "condition": "before"},
    "task 2, history zero": {"order": 2, "first_scored": 20, "history": "zero", "condition": "before"},
    "window 20, transient 10": {"window": 20, "condition": "before"},
    "window 20, transient 12": {"window": 20, "transient": 12, "condition": "before"},
}


def released_seed(epoch: Any) -> Any:
    """What the released code adds to E sIn for flossing epoch 1, 2, ...: blocks of 500 before epochs 1, 100 and 200."""
    block = (epoch - 1) // 500
    return epoch - 500 * block + jnp.where(block == 0, 1, 100 * block)


@contextlib.contextmanager
def repeated_inputs():
    """Flossing epochs draw their inputs by the seed of the released code."""
    update = FlossingEpoch.__call__

    def call(self, carry, epoch):
        return update(self, carry, released_seed(epoch))

    FlossingEpoch.__call__ = call
    try:
        yield
    finally:
        FlossingEpoch.__call__ = update


def measure(config: Config, out: Path) -> dict[str, Any]:
    """The accuracy, the first epoch whose mean over 25 reaches 0.95, the last flossed exponent, the trace of J."""
    directory = run(config, out)
    accuracy = directory.metrics("training")["accuracy"]
    running = np.convolve(accuracy, np.ones(25) / 25, mode="valid")
    reached = np.flatnonzero(running >= 0.95)
    return {
        "seed": config.seeds.seed_network,
        "accuracy": round(float(accuracy[-100:].mean()), 4),
        "epoch": int(reached[0]) + 25 if reached.size else None,
        "last exponent": round(float(directory.metrics("flossing")["exponents"][499, -1]), 4),
        "trace": round(float(np.trace(draw_model(config).network.J)), 3),
    }


def write(found: dict[str, list[dict[str, Any]]]):
    """One line for each network."""
    rows = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, each)) + "\n ]" for name, each in found.items()]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")


if __name__ == "__main__":
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for name, values in ROWS.items():
        for seed in SEEDS:
            if any(row["seed"] == seed for row in found.get(name, [])):
                continue
            config = Config().with_values(**values, seed=seed, snapshots_every=0)
            is_repeated = name == "inputs repeated"
            with repeated_inputs() if is_repeated else contextlib.nullcontext(), tempfile.TemporaryDirectory() as out:
                found.setdefault(name, []).append(measure(config, Path(out) / "run"))
            print(name, found[name][-1], flush=True)
            write(found)
            jax.clear_caches()
