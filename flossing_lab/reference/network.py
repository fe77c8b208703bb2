"""The network of the reference experiment: a vanilla cell with a readout before the tanh."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flossing._types import RandomKey
from flossing.cells import VanillaRNN
from flossing_lab.reference.config import NetworkConfig

OFFSET = 0.001
"""The initial offset of the readout."""


class ReferenceNetwork(eqx.Module):
    """N tanh units with a linear readout before the tanh.

        x_{t+1} = J h_t + b + ws s_t / S,      h_t = tanh(x_t),      r_t = wr x_t + offset

    Fields, with N units, S inputs and O outputs: `J` (N, N), `ws` (N, S), `wr` (O, N), `b` (N,), `offset` (O,).
    Checkpoints store them in this order and by these names.
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    wr: Float[Array, "O N"]
    b: Float[Array, " N"]
    offset: Float[Array, " O"]

    def __call__(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of h."""
        return jnp.tanh(self.J @ state + self.b + self.ws @ input / input.size)

    def outputs(self, inputs: Float[Array, "T S"], x: Float[Array, " N"]) -> Float[Array, "T O"]:
        """The outputs r_1 ... r_T along a sequence that starts at x; logits for a binary task."""
        drive = inputs @ self.ws.T / inputs.shape[1] + self.b[None, :]
        return driven(self.J, drive, x) @ self.wr.T + self.offset[None, :]

    def relax(self, x: Float[Array, " N"], steps: int = 100) -> Float[Array, " N"]:
        """x after `steps` steps without input."""
        return lax.fori_loop(0, steps, lambda _, x: self.J @ jnp.tanh(x) + self.b, x)


def draw_network(config: NetworkConfig, channels: int, outputs: int, key: RandomKey) -> ReferenceNetwork:
    """A network drawn as the released code does: the cell, and `wr`, N(0,1) times a scale plus a mean."""
    settings = config.model_dump()
    scale, mean = settings.pop("readout_scale"), settings.pop("readout_mean")
    by_lapack = settings["recurrent"] == "lapack"
    if by_lapack:
        settings["recurrent"] = "orthogonal"
    cell = VanillaRNN(inputs=channels, key=key, **settings)
    J_key, _, readout_key, _ = jax.random.split(key, 4)  # the third is unused by the cell
    if by_lapack:
        q, _ = jnp.linalg.qr(jax.random.normal(J_key, cell.J.shape))
        cell = eqx.tree_at(lambda cell: cell.J, cell, config.gain * q)
    wr = mean + scale * jax.random.normal(readout_key, (outputs, config.units))
    return ReferenceNetwork(cell.J, cell.ws, wr, cell.b, jnp.full((outputs,), OFFSET))


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
