"""The reference network."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.cells._weights import Recurrent, recurrent_weights


class VanillaRNN(eqx.Module):
    """The reference network: N tanh units with a readout before the tanh.

        x_{t+1} = J h_t + b + ws s_t / S,      h_t = tanh(x_t),      r_t = wr x_t + offset

    The state is h. Finite-time exponents depend on that choice: in x they would differ by a term that decays
    like 1/T. Fields, with N units, S inputs and O outputs: `J` (N, N), `ws` (N, S), `wr` (O, N), `b` (N,),
    `offset` (O,). Neither `ws` nor `wr` is divided by sqrt(N), as in the reference.
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    wr: Float[Array, "O N"]
    b: Float[Array, " N"]
    offset: Float[Array, " O"]

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        outputs: int = 1,
        *,
        key: RandomKey,
        recurrent: Recurrent = "gaussian",
        gain: float = 1.0,
        mean_coupling: float = 0.0,
        input_scale: float = 1.0,
        input_mean: float = 0.0,
        readout_scale: float = 1.0,
        readout_mean: float = 0.0,
        bias_scale: float = 0.1,
        bias_mean: float = 0.0,
        offset: float = 0.001,
    ):
        """Draw a network as the reference does, in JAX's default floating dtype.

        `J` is `gain N(0,1) / sqrt(N) + mean_coupling / N`, or `gain` times the Q factor of a Gaussian matrix; `ws`
        and `wr` are N(0,1) times a scale plus a mean; `b` is uniform in [0, bias_scale) plus `bias_mean`. Raises
        ValueError for a size below 1 or an unknown `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        check_integer("outputs", outputs, least=1)
        key_J, key_ws, key_wr, key_b = jax.random.split(key, 4)
        self.J = recurrent_weights(key_J, units, recurrent, gain, mean_coupling)
        self.ws = input_mean + input_scale * jax.random.normal(key_ws, (units, inputs))
        self.wr = readout_mean + readout_scale * jax.random.normal(key_wr, (outputs, units))
        self.b = bias_mean + bias_scale * jax.random.uniform(key_b, (units,))
        self.offset = jnp.full((outputs,), offset)

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
        """The next x, which gives the next h and the output."""
        return self.J @ state + self.b + self.ws @ input / input.size

    def outputs(self, inputs: Float[Array, "T S"], x: Float[Array, " N"]) -> Float[Array, "T O"]:
        """The outputs r_1 ... r_T along a sequence that starts at x; logits for a binary task."""
        drive = inputs @ self.ws.T / inputs.shape[1] + self.b[None, :]
        return driven(self.J, drive, x) @ self.wr.T + self.offset[None, :]

    def relax(self, x: Float[Array, " N"], steps: int = 100) -> Float[Array, " N"]:
        """x after `steps` steps without input."""
        return lax.fori_loop(0, steps, lambda _, x: self.J @ jnp.tanh(x) + self.b, x)


@jax.custom_jvp
def driven(J: Float[Array, "N N"], drive: Float[Array, "T N"], x: Float[Array, " N"]) -> Float[Array, "T N"]:
    """x_1 ... x_T of `x_t = J tanh(x_{t-1}) + drive_t`, from x_0 = `x`.

    Its derivative is explicit for speed: dJ multiplies all states in one product instead of one per step. It is linear
    in the tangents, so reverse mode is its transpose.
    """

    def body(x, drive):
        x = J @ jnp.tanh(x) + drive
        return x, x

    return lax.scan(body, x, drive)[1]


@driven.defjvp
def _driven_jvp(primals, tangents):
    J, drive, x = primals
    dJ, ddrive, dx = tangents
    xs = driven(J, drive, x)
    h = jnp.tanh(jnp.concatenate([x[None], xs[:-1]]))

    def body(dx, step):
        slope, du = step
        dx = J @ (slope * dx) + du
        return dx, dx

    _, dxs = lax.scan(body, dx, (1 - jnp.square(h), h @ dJ.T + ddrive))
    return xs, dxs
