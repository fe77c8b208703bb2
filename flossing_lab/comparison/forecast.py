"""Forecasts of a network that was trained to predict the next value: how long they are right, and its exponents."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flossing as fl

READ, AHEAD, COUNT = 200, 1000, 20
"""Steps that a network reads before each forecast, steps that it forecasts, and how many forecasts."""
EXPONENTS, STEPS, TRANSIENT = 3, 5000, 500


def evaluate(task: fl.tasks.MackeyGlass, network: fl.cells.Network) -> dict[str, Any]:
    """The median `valid_time` of forecasts of the test part, and the first exponents of the network in closed loop."""
    times, state = _forecast(network, fl.tasks.MackeyGlass(delay=task.delay, steps=READ + AHEAD).test(COUNT))
    closed = fl.lyapunov_spectrum(
        network.closed_loop, None, state=state, steps=STEPS, transient=TRANSIENT, k=EXPONENTS, interval="auto"
    )
    exponents = [float(f"{value:.4g}") for value in np.asarray(closed.exponents)]
    return {"valid_time": float(np.median(times)), "closed_loop": exponents}


@eqx.filter_jit
def _forecast(network: fl.cells.Network, trials: fl.tasks.Trial):
    outputs, states = jax.vmap(lambda inputs: network.forecast(inputs, AHEAD))(trials.inputs[:, :READ])
    times = jax.vmap(fl.tasks.valid_time)(outputs, trials.inputs[:, READ:, 0])
    return times, jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf[0]), states)
