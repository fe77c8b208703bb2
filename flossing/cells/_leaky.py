"""Leaky rate networks."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_share
from flossing._types import RandomKey
from flossing.cells._weights import Recurrent, recurrent_weights

NONLINEARITIES = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class LeakyRNN(eqx.Module):
    """N leaky units: a rate network with steps of `dt`, in units of its time constant.

        x_{t+1} = (1 - dt) x_t + dt (J phi(x_t) + b + ws s_t)

    The state is x, the output phi(x), with phi = tanh or relu. Exponents are per step: divide by `dt`, or measure with
    `time_step=dt`, to get them per time constant. With `dt = 1` the old x drops out, and relu gives the ReLU network: a
    step in which m units are silent loses m directions, whose exponents are -inf. At x = 0 all units are silent, so use
    a transient. Fields, with N units and S inputs: `J` (N, N), `ws` (N, S), `b` (N,).

        cell = fl.cells.LeakyRNN(64, key=jax.random.key(0), dt=0.1)
        print(fl.lyapunov_spectrum(cell, inputs, k=8, time_step=0.1))
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]
    dt: float = eqx.field(static=True)
    nonlinearity: Literal["tanh", "relu"] = eqx.field(static=True)

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        dt: float = 0.1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        recurrent: Recurrent = "gaussian",
        gain: float = 1.0,
        mean_coupling: float = 0.0,
        input_scale: float = 1.0,
        bias_scale: float = 0.1,
        bias_mean: float = 0.0,
    ):
        """Draw a network, in JAX's default floating dtype.

        `J` is as in [`cells.VanillaRNN`][]; `ws` is N(0,1) times `input_scale`; `b` is uniform in [0, bias_scale)
        plus `bias_mean`. Raises ValueError for a size below 1, a `dt` outside (0, 1], an unknown `nonlinearity` or
        `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        check_share("dt", dt)
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got nonlinearity={nonlinearity!r}")
        key_J, key_ws, key_b = jax.random.split(key, 3)
        self.J = recurrent_weights(key_J, units, recurrent, gain, mean_coupling)
        self.ws = input_scale * jax.random.normal(key_ws, (units, inputs))
        self.b = bias_mean + bias_scale * jax.random.uniform(key_b, (units,))
        self.dt, self.nonlinearity = float(dt), nonlinearity

    def __call__(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of x."""
        return (1 - self.dt) * state + self.dt * (self.J @ self.output(state) + self.b + self.ws @ input)

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros_like(self.b)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """phi(x)."""
        return NONLINEARITIES[self.nonlinearity](state)
