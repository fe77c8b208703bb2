"""Many networks flossed at once on an accelerator: `python -m benchmarks.gpu`.

Networks are vmapped, and sharded if there are several devices, and compared with one network on one CPU core. Needs a
JAX that sees the accelerator (pip install "jax[cuda12]"); otherwise it runs on the CPU and says so. A vmapped network
cannot adapt its own interval (both branches of a vmapped condition are computed), so all use the given interval.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import flossing as fl
from benchmarks import ours
from benchmarks.epochs import FLOSSING
from benchmarks.starts import flossing_start, training_start
from benchmarks.table import show
from benchmarks.turns import Contender, take_turns
from flossing_lab.reference import experiment as reference
from flossing_lab.runs.process import ONE_THREAD

NETWORKS = (1, 16, 256)
GOAL = 50.0
"""Goal for 256 networks: the number of CPU cores that the accelerator should replace."""


class Many:
    """`networks` flossing phases in parallel, each with its own weights, initial state and inputs.

    `models`, `states` and `keys` have a leading axis of networks.
    """

    def __init__(self, networks: int, *, units: int, steps: int, k: int, interval: Any = 1):
        models = [self.model(units, 1 + number) for number in range(networks)]
        self.flossing = fl.Flossing(
            models[0],
            ours.random_bits(steps),
            state=reference.first_state,
            basis=flossing_start(units, k)["basis"].astype(models[0].x0.dtype),
            interval=interval,
            step=reference.step,
            where=reference.flossed_leaves,
            loss=fl.losses.exponents,
            optimiser=optax.adam(1e-3),
        )
        states = [self.flossing.init(model) for model in models]
        stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
        self.models, self.states = shard((stack(*models), stack(*states)), networks)
        self.keys = shard(jax.random.split(jax.random.key(1), networks), networks)
        self.done = 0

    @staticmethod
    def model(units: int, seed: int) -> reference.ReferenceModel:
        """The network with this seed, in JAX's default precision."""
        numbers = training_start(units, 1, seed, dtype=jnp.zeros(()).dtype.name)
        return ours.model_of(numbers)

    def advance(self, epochs: int):
        """Run further epochs; wait for the record of the last one and return it."""
        # Epoch counts are arrays, since each Python integer would trigger a compilation.
        first, count = jnp.asarray(self.done), jnp.asarray(epochs)
        self.models, self.states, record = _advance(self.flossing, self.models, self.states, self.keys, first, count)
        self.done += epochs
        return jax.block_until_ready(record)


def shard(tree: Any, networks: int) -> Any:
    """Shard the networks over all devices, if they divide evenly."""
    devices = jax.devices()
    if len(devices) == 1 or networks % len(devices):
        return tree
    mesh = Mesh(devices, ("networks",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("networks")))


@eqx.filter_jit
def _advance(flossing, models, states, keys, first, epochs):
    def epoch(model, state, key, number):
        return flossing.update(model, state, jax.random.fold_in(key, number))

    def body(i, loop):
        models, states, _ = loop
        return jax.vmap(epoch, in_axes=(0, 0, 0, None))(models, states, keys, first + i)

    shapes = jax.eval_shape(body, 0, (models, states, None))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[2])
    return lax.fori_loop(0, epochs, body, (models, states, nothing))


def pace(many: Many, seconds: float) -> float:
    """Seconds per epoch of all networks, median of three measurements of about `seconds` each."""
    many.advance(1)
    begin = time.perf_counter()
    many.advance(1)
    epochs = max(1, round(seconds / (time.perf_counter() - begin)))
    stretches = []
    for _ in range(3):
        begin = time.perf_counter()
        many.advance(epochs)
        stretches.append((time.perf_counter() - begin) / epochs)
    return statistics.median(stretches)


def deviation(*, networks: int, units: int, steps: int, k: int, interval: int = 1) -> float:
    """Largest relative deviation between a vmapped network's first loss and the same network's loss without vmap."""
    together = Many(networks, units=units, steps=steps, k=k, interval=interval)
    alone = []
    for number in range(networks):
        model, key = Many.model(units, 1 + number), jax.random.fold_in(together.keys[number], 0)
        alone.append(ours.update_once()(together.flossing, model, together.flossing.init(model), key)[2].loss)
    losses, alone = together.advance(1).loss, jnp.stack(alone)
    return float(jnp.max(jnp.abs(losses - alone) / alone))


def one_core(interval: int, **size: int) -> dict[Any, float]:
    """Seconds per epoch of one network on one CPU core, at the given interval and at the automatic one."""
    single = {}
    for chosen in (interval, "auto"):
        arguments = {"factory": "benchmarks.ours:flossing", "interval": chosen, "blocks": 3, "seconds": 0.5}
        environment = ONE_THREAD | {"JAX_PLATFORMS": "cpu"}
        core = [min(os.sched_getaffinity(0))]
        contender = Contender("benchmarks.turns:paced", environment=environment, cores=core, **arguments, **size)
        take_turns([contender])
        single[chosen] = contender.pace
        print(f"{named(size)}, one CPU core, interval {chosen}: {show(contender.pace, 's')} {contender.reason}",
              flush=True)  # fmt: skip
    return single


def named(size: dict[str, int]) -> str:
    """A size in words."""
    return f"N={size['units']}, T={size['steps']}, k={size['k']}"


def main():
    """Print the table and write gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--interval", type=int, default=1, help="steps between re-orthonormalisations")
    parser.add_argument("--quick", action="store_true", help="use the smallest sizes; writes nothing")
    options = parser.parse_args()
    device = jax.devices()[0]
    print(f"{len(jax.devices())} x {device.device_kind} ({device.platform}), JAX {jax.__version__}")
    small = {"networks": 3, "units": 12, "steps": 24, "k": 4, "interval": options.interval}
    print(f"vmapped and single networks: losses differ by at most {deviation(**small):.1e}")
    sizes = [{"units": 12, "steps": 24, "k": 4}]
    if not options.quick:
        sizes = [{"units": units, "steps": steps, "k": k} for units, steps, k, _ in FLOSSING]
    singles = [one_core(options.interval, **size) for size in sizes]
    rows = []
    for size, single in zip(sizes, singles, strict=True):
        print(named(size))
        for networks in (1, 4) if options.quick else NETWORKS:
            seconds = pace(Many(networks, interval=options.interval, **size), 0.05 if options.quick else 1.0)
            ratio = networks * single[options.interval] / seconds
            goal = f", goal {GOAL:g}: {'reached' if ratio >= GOAL else 'missed'}" if networks == NETWORKS[-1] else ""
            print(f"  {networks} at once: {show(seconds, 's')} per epoch, {networks / seconds:.4g} networks/s, "
                  f"{ratio:.1f} cores{goal}", flush=True)  # fmt: skip
            rows.append(size | {"networks": networks, "seconds": seconds, "cores": ratio, "one_core": single})
    if not options.quick:
        found = {
            "device": device.device_kind,
            "devices": len(jax.devices()),
            "interval": options.interval,
            "rows": rows,
        }
        Path(__file__).with_name("gpu.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
