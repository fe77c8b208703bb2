"""Binary and spiking networks, with a surrogate for the derivative of a spike.

The spikes themselves stay exact. Their derivative is `1 / (sharpness |v| + 1)^2`, with v relative to the threshold.
There are two sharpnesses. The step, and thus exponents and flossing, uses `flossing_beta`. `with_task_surrogate()`
returns the same cell with `beta`, for the gradient of a task; [`cells.Network`][] applies it automatically.
"""

import copy
import math
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_positive
from flossing._types import RandomKey
from flossing.cells._surrogate import spike
from flossing.cells._weights import Recurrent, recurrent_weights


class BinaryRNN(eqx.Module):
    """N units that are on or off.

        v_t = J z_t + b + ws s_t,      z_{t+1} = 1 where v_t > threshold, else 0

    The state and the output are z, floats of 0 and 1. Fields, with N units and S inputs: `J` (N, N), `ws` (N, S), `b`
    (N,), and the numbers `threshold`, `beta`, `flossing_beta`, per unit of v. The wider the surrogate, the closer to 0
    flossing brings many exponents: its slope is then near 1 for most units, whereas a narrow one shrinks every tangent.

        cell = fl.cells.BinaryRNN(64, key=jax.random.key(0))
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]
    threshold: float = eqx.field(static=True)
    beta: float = eqx.field(static=True)
    flossing_beta: float = eqx.field(static=True)

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        recurrent: Recurrent = "gaussian",
        gain: float = 1.0,
        mean_coupling: float = 0.0,
        input_scale: float = 1.0,
        bias_scale: float = 0.1,
        bias_mean: float = 0.0,
        threshold: float = 0.0,
        beta: float = 10.0,
        flossing_beta: float = 0.3,
    ):
        """Draw a network, with `J`, `ws` and `b` as in [`cells.LeakyRNN`][], in JAX's default floating dtype.

        Raises ValueError for a size below 1, a sharpness that is not positive or an unknown `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        check_positive("beta", beta)
        check_positive("flossing_beta", flossing_beta)
        key_J, key_ws, key_b = jax.random.split(key, 3)
        self.J = recurrent_weights(key_J, units, recurrent, gain, mean_coupling)
        self.ws = input_scale * jax.random.normal(key_ws, (units, inputs))
        self.b = bias_mean + bias_scale * jax.random.uniform(key_b, (units,))
        self.threshold, self.beta, self.flossing_beta = float(threshold), float(beta), float(flossing_beta)

    def __call__(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of z."""
        v = self.J @ state + self.b + self.ws @ input
        return spike(v - self.threshold, self.flossing_beta)

    def with_task_surrogate(self) -> "BinaryRNN":
        """The same cell with the sharpness `beta` in its derivative."""
        return _for_task(self)

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros_like(self.b)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """z itself."""
        return state


LIFState: TypeAlias = tuple[Float[Array, " N"], Float[Array, " N"]]


class LIF(eqx.Module):
    """N leaky integrate-and-fire neurons with exponential synapses; the output is their spikes z.

        z_t = 1 where v_t > 1, else 0
        i_{t+1} = alpha i_t + J z_t + ws s_t                              alpha = exp(-dt / tau_syn)
        v_{t+1} = kappa v_t + (1 - kappa) (i_{t+1} + b) - z_t             kappa = exp(-dt / tau_mem)

    The state is (v, i), 2N real coordinates. A spike is a function of v, and lowers v by the threshold, 1, in the next
    step. This reset does not enter the derivative unless `reset_in_tangent`. Currents are in units of the threshold: a
    constant `b` above 1 makes a neuron fire. Fields, with N neurons and S inputs: `J` (N, N), `ws` (N, S), `b` (N,),
    `tau_mem`, `tau_syn`, `dt` in ms, `beta`, `flossing_beta`, `reset_in_tangent`. Flossing acts on exponents, not on
    firing rates, and may change these a lot: check both.

    Source: the discrete equations are those of Neftci, Mostafa & Zenke (2019), except that the input acts in the same
    step and that the gain 1 - kappa makes v follow a slow current.

        cell = fl.cells.LIF(64, key=jax.random.key(0))
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]
    tau_mem: float = eqx.field(static=True)
    tau_syn: float = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    beta: float = eqx.field(static=True)
    flossing_beta: float = eqx.field(static=True)
    reset_in_tangent: bool = eqx.field(static=True)

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        recurrent: Recurrent = "gaussian",
        gain: float = 0.5,
        mean_coupling: float = 0.0,
        input_scale: float = 1.0,
        bias_scale: float = 1.0,
        bias_mean: float = 0.5,
        tau_mem: float = 10.0,
        tau_syn: float = 5.0,
        dt: float = 1.0,
        beta: float = 10.0,
        flossing_beta: float = 1.0,
        reset_in_tangent: bool = False,
    ):
        """Draw a network, with `J`, `ws` and `b` as in [`cells.LeakyRNN`][], in JAX's default floating dtype.

        With the default bias, half of the neurons fire spontaneously. Raises ValueError for a size below 1, a
        time or a sharpness that is not positive or an unknown `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        times = {"tau_mem": tau_mem, "tau_syn": tau_syn, "dt": dt}
        for name, value in (times | {"beta": beta, "flossing_beta": flossing_beta}).items():
            check_positive(name, value)
        key_J, key_ws, key_b = jax.random.split(key, 3)
        self.J = recurrent_weights(key_J, units, recurrent, gain, mean_coupling)
        self.ws = input_scale * jax.random.normal(key_ws, (units, inputs))
        self.b = bias_mean + bias_scale * jax.random.uniform(key_b, (units,))
        self.tau_mem, self.tau_syn, self.dt = float(tau_mem), float(tau_syn), float(dt)
        self.beta, self.flossing_beta, self.reset_in_tangent = float(beta), float(flossing_beta), reset_in_tangent

    def __call__(self, input: Float[Array, " S"], state: LIFState) -> LIFState:
        """One step of (v, i)."""
        v, i = state
        alpha, kappa = math.exp(-self.dt / self.tau_syn), math.exp(-self.dt / self.tau_mem)
        z = self.output(state)
        i = alpha * i + self.J @ z + self.ws @ input
        reset = z if self.reset_in_tangent else lax.stop_gradient(z)
        return kappa * v + (1 - kappa) * (i + self.b) - reset, i

    def with_task_surrogate(self) -> "LIF":
        """The same cell with the sharpness `beta` in its derivative."""
        return _for_task(self)

    def zeros(self) -> LIFState:
        """The zero state."""
        zero = jnp.zeros_like(self.b)
        return zero, zero

    def output(self, state: LIFState) -> Float[Array, " N"]:
        """The spikes z."""
        return spike(state[0] - 1, self.flossing_beta)


def _for_task(cell):
    # A copy, since `dataclasses.replace` would draw a new network.
    twin = copy.copy(cell)
    object.__setattr__(twin, "flossing_beta", cell.beta)
    return twin
