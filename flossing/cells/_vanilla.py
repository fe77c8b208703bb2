"""The vanilla network of the paper."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.cells._weights import Recurrent, recurrent_weights


class VanillaRNN(eqx.Module):
    """N tanh units, drawn as in the paper's released code.

        x_{t+1} = J h_t + b + ws s_t / S,      h_t = tanh(x_t)

    The state is h. Finite-time exponents depend on that choice: in x they would differ by a term that decays
    like 1/T. Fields, with N units and S inputs: `J` (N, N), `ws` (N, S), `b` (N,). `ws` is not divided by sqrt(N).

        cell = fl.cells.VanillaRNN(64, key=jax.random.key(0))
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]

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
        input_mean: float = 0.0,
        bias_scale: float = 0.1,
        bias_mean: float = 0.0,
    ):
        """Draw a cell in JAX's default floating dtype.

        `J` is `gain N(0,1) / sqrt(N) + mean_coupling / N`, or `gain` times the Q factor of a Gaussian matrix; `ws` is
        N(0,1) times a scale plus a mean; `b` is uniform in [0, bias_scale) plus `bias_mean`. Raises ValueError for a
        size below 1 or an unknown `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        # A fourth key drew a readout in version 0.1. Without it, the same key would draw other weights.
        key_J, key_ws, _, key_b = jax.random.split(key, 4)
        self.J = recurrent_weights(key_J, units, recurrent, gain, mean_coupling)
        self.ws = input_mean + input_scale * jax.random.normal(key_ws, (units, inputs))
        self.b = bias_mean + bias_scale * jax.random.uniform(key_b, (units,))

    def __call__(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of h."""
        return jnp.tanh(self.current(input, state))

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros_like(self.b)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """h itself."""
        return state

    def current(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """The next x, which gives the next h."""
        return self.J @ state + self.b + self.ws @ input / input.size
