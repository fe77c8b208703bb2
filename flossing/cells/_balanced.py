"""Networks balanced by inhibition."""

import functools
import math
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_positive
from flossing._types import RandomKey
from flossing.cells._weights import recurrent_weights

Drive: TypeAlias = tuple[Float[Array, " S"], Float[Array, " N"]]


class BalancedRNN(eqx.Module):
    """N noisy rectified units with mutual inhibition and a readout of their rates.

        x_{t+1} = x_t + dt (-x_t + J relu(x_t) + b + ws s_t / S) + sigma sqrt(dt) xi_t,      r_t = wr relu(x_t) / N

    Unlike other cells, it takes a pair (s, xi) as input: signals (S,) and standard Gaussian noise (N,). In
    [`cells.Stacked`][] it can therefore only be the first layer. The step is a pure function, so exponents along given
    inputs are those for frozen noise. They are per step: divide by `dt`, or measure with `time_step=dt`, to get them
    per time constant. The state is x, the output relu(x). No unit drives itself: the diagonal of `J` starts at zero,
    does not enter the step and gets no gradient. Fields, with N units, S inputs and O outputs: `J` (N, N), `ws` (N, S),
    `wr` (O, N), `b` (N,), which starts at zero.

    Source: Engelken et al. (NeurIPS 2022), released code, whose values are the defaults.

        network = fl.cells.BalancedRNN(64, key=jax.random.key(0))
        state = network((jnp.ones(1), jnp.zeros(64)), network.zeros())  # signals and noise
    """

    J: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    wr: Float[Array, "O N"]
    b: Float[Array, " N"]
    dt: float = eqx.field(static=True)
    sigma: float = eqx.field(static=True)

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        outputs: int = 1,
        *,
        key: RandomKey,
        dt: float = 0.2,
        sigma: float = 1.0,
        gain: float = 0.032,
        mean_coupling: float = -1.0,
        input_scale: float = 0.01,
        input_mean: float = 1.0,
        readout_scale: float = 0.2,
        readout_mean: float = 1.0,
    ):
        """Draw a network, in JAX's default floating dtype.

        `J` is `gain N(0,1) / sqrt(N) + mean_coupling / N` off the diagonal; `ws` and `wr` are N(0,1) times a scale plus
        a mean. Raises ValueError for a size below 1, a `dt` that is not positive, a `sigma` below 0.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        check_integer("outputs", outputs, least=1)
        check_positive("dt", dt)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be at least 0, got sigma={sigma!r}")
        key_J, key_ws, key_wr = jax.random.split(key, 3)
        self.J = without_diagonal(recurrent_weights(key_J, units, "gaussian", gain, mean_coupling))
        self.ws = input_mean + input_scale * jax.random.normal(key_ws, (units, inputs))
        self.wr = readout_mean + readout_scale * jax.random.normal(key_wr, (outputs, units))
        self.b = jnp.zeros(units)
        self.dt, self.sigma = float(dt), float(sigma)

    def __call__(self, input: Drive, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of x."""
        signal, noise = input
        return _step(without_diagonal(self.J), self._drive(signal[None], noise[None])[0], state, self.dt)

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros_like(self.b)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """The rates relu(x)."""
        return jax.nn.relu(state)

    def orbit(
        self, signals: Float[Array, "T S"], noise: Float[Array, "T N"], x: Float[Array, " N"]
    ) -> Float[Array, "T N"]:
        """x_1 ... x_T (T, N) along a sequence from x (N,), the same as single steps but faster to differentiate.

        T steps of length `dt`, with `signals` (T, S) and standard Gaussian `noise` (T, N), both of the state's dtype.
        """
        return _orbit(without_diagonal(self.J), self._drive(signals, noise), x, self.dt)

    def readout(self, x: Float[Array, "T N"]) -> Float[Array, "T O"]:
        """The outputs r (T, O) at T states x (T, N)."""
        return jax.nn.relu(x) @ self.wr.T / self.b.size

    def relax(self, x: Float[Array, " N"], signal: Float[Array, " S"], steps: int) -> Float[Array, " N"]:
        """x (N,) after `steps` steps of length `dt` from x, under a constant signal (S,) and without noise.

        Not finite if the network has no resting state, for example if it excites itself.
        """
        J, drive = without_diagonal(self.J), self._drive(signal[None], jnp.zeros_like(x)[None])[0]
        return lax.fori_loop(0, steps, lambda _, x: _step(J, drive, x, self.dt), x)

    def _drive(self, signals: Float[Array, "T S"], noise: Float[Array, "T N"]) -> Float[Array, "T N"]:
        current = self.b[None, :] + signals @ self.ws.T / signals.shape[1]
        return self.dt * current + self.sigma * math.sqrt(self.dt) * noise


def without_diagonal(J: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """J with zeros on its diagonal, whose gradient is then zero too."""
    return jnp.where(jnp.eye(J.shape[0], dtype=bool), 0, J)


def _step(J: Float[Array, "N N"], drive: Float[Array, " N"], x: Float[Array, " N"], dt: float) -> Float[Array, " N"]:
    return x + dt * (J @ jax.nn.relu(x) - x) + drive


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _orbit(J: Float[Array, "N N"], drive: Float[Array, "T N"], x: Float[Array, " N"], dt: float) -> Float[Array, "T N"]:
    # The derivative is explicit for speed: dJ multiplies all states in one product.
    def body(x, drive):
        x = _step(J, drive, x, dt)
        return x, x

    return lax.scan(body, x, drive)[1]


@_orbit.defjvp
def _orbit_jvp(dt, primals, tangents):
    J, drive, x = primals
    dJ, ddrive, dx = tangents
    xs = _orbit(J, drive, x, dt)
    before = jnp.concatenate([x[None], xs[:-1]])
    active = (before > 0).astype(x.dtype)

    def body(dx, step):
        active, du = step
        dx = dx + dt * (J @ (active * dx) - dx) + du
        return dx, dx

    _, dxs = lax.scan(body, dx, (active, dt * (jax.nn.relu(before) @ dJ.T) + ddrive))
    return xs, dxs
