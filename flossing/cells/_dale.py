"""Networks that obey Dale's law: each unit is excitatory or inhibitory; connections are sparse."""

from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from flossing._checks import check_integer, check_leaves, check_share
from flossing._types import RandomKey

NONLINEARITIES = {"tanh": jnp.tanh, "relu": jax.nn.relu, "softplus": jax.nn.softplus}

DaleInput: TypeAlias = Float[Array, " S"] | tuple[Float[Array, " S"], Float[Array, " N"]]
"""The input of a step: the signals s, or the signals and noise."""


class DaleRNN(eqx.Module):
    """N excitatory and inhibitory units with sparse connections and a leak; the state and the output are h.

        h_{t+1} = (1 - dt) h_t + dt phi(J h_t + b + ws s_t + noise_t),      J_ij = |W_ij| mask_ij sign_j

    phi is tanh, relu or softplus. `W` is free, and J has its signs and zeros for any `W`, so flossing and training keep
    them exactly. Noise is part of the input, `(s_t, noise_t)`; an array is s_t without noise. With `dt = 1` the old h
    drops out, and a silent relu unit loses a direction, whose exponent is -inf: use a leak with relu.

    Fields, with N units and S inputs: `W` (N, N), `ws` (N, S), `b` (N,), `mask` (N, N) and `sign` (N,), which hold no
    floating numbers and so are never changed.

        cell = fl.cells.DaleRNN(64, key=jax.random.key(0), excitatory=0.8, density=0.2)
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    W: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]
    mask: Bool[Array, "N N"]
    sign: Int[Array, " N"]
    dt: float = eqx.field(static=True)
    nonlinearity: Literal["tanh", "relu", "softplus"] = eqx.field(static=True)

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        excitatory: float = 0.8,
        density: float = 0.2,
        gain: float = 1.3,
        input_scale: float = 0.1,
        bias_scale: float = 0.1,
        bias_mean: float = 0.0,
        dt: float = 1.0,
        nonlinearity: Literal["tanh", "relu", "softplus"] = "tanh",
    ):
        """Draw a network, in JAX's default floating dtype.

        - `excitatory`: the share of excitatory units, the first ones; both kinds exist.
        - `density`: the share of possible connections that exist; no unit is connected to itself.
        - `gain`: the spectral radius of J. Sizes are |N(0,1)|, larger for inhibition so that both kinds balance.
        - `dt`: the leak, the step in units of the time constant; `nonlinearity`: phi.
        - `ws` is N(0,1) times `input_scale`; `b` is uniform in [0, bias_scale) plus `bias_mean`.

        Raises ValueError for `units` below 2, `inputs` below 1, shares and `dt` outside (0, 1], or an unknown
        `nonlinearity`.
        """
        check_integer("units", units, least=2)
        check_integer("inputs", inputs, least=1)
        for name, value in {"excitatory": excitatory, "density": density, "dt": dt}.items():
            check_share(name, value)
        _check_nonlinearity(nonlinearity)
        key_mask, key_W, key_ws, key_b = jax.random.split(key, 4)
        exciting = min(max(round(excitatory * units), 1), units - 1)
        self.sign = jnp.where(jnp.arange(units) < exciting, 1, -1)
        self.mask = jax.random.bernoulli(key_mask, density, (units, units)) & ~jnp.eye(units, dtype=bool)
        balance = jnp.where(self.sign > 0, 1.0, exciting / (units - exciting))
        self.W = jnp.abs(jax.random.normal(key_W, (units, units))) * balance[None, :]
        self.dt, self.nonlinearity = float(dt), nonlinearity
        radius = jnp.abs(jnp.linalg.eigvals(self.J)).max()
        self.W = self.W * (gain / jnp.where(radius > 0, radius, 1))
        self.ws = input_scale * jax.random.normal(key_ws, (units, inputs))
        self.b = bias_mean + bias_scale * jax.random.uniform(key_b, (units,))

    @classmethod
    def from_weights(
        cls,
        J: ArrayLike,
        ws: ArrayLike,
        b: ArrayLike,
        *,
        dt: float = 1.0,
        nonlinearity: Literal["tanh", "relu", "softplus"] = "tanh",
    ) -> "DaleRNN":
        """A network with given weights, such as those of a file, in their dtype; its signs and zeros are those of `J`.

        `J` (N, N) has the connections of presynaptic unit j in column j, `ws` is (N, S), `b` (N,). A unit without
        connections counts as excitatory. Raises ValueError for a column with both signs, which no such unit has, for
        other shapes, and as for a new network.

            file = np.load("fitted.npz")
            cell = fl.cells.DaleRNN.from_weights(file["J"], file["B"], file["bias"], dt=0.1, nonlinearity="softplus")
        """
        check_share("dt", dt)
        _check_nonlinearity(nonlinearity)
        for name, value in {"J": J, "ws": ws, "b": b}.items():
            check_leaves(name, value)
        J, ws, b = (jnp.asarray(each) + 0.0 for each in (J, ws, b))  # floating, also from integers
        size = len(b) if b.ndim == 1 else None
        if J.shape != (size, size) or ws.ndim != 2 or len(ws) != size:
            raise ValueError(
                f"J, ws and b must have the shapes (N, N), (N, S) and (N,), got {J.shape}, {ws.shape} and {b.shape}"
            )
        check_integer("units", size, least=2)
        mixed = (J > 0).any(0) & (J < 0).any(0)
        if mixed.any():
            column = int(mixed.argmax())
            raise ValueError(
                f"J must have one sign in each column, that of a presynaptic unit, got both in column {column}: "
                "transpose it if its rows are presynaptic"
            )
        drawn = cls(len(b), ws.shape[1], key=jax.random.key(0), dt=dt, nonlinearity=nonlinearity)
        parts = (jnp.abs(J), ws, b, J != 0, jnp.where((J < 0).any(0), -1, 1))
        return eqx.tree_at(lambda cell: (cell.W, cell.ws, cell.b, cell.mask, cell.sign), drawn, parts)

    @property
    def J(self) -> Float[Array, "N N"]:
        """The connections, with their zeros and signs."""
        return jnp.where(self.mask, jnp.abs(self.W) * self.sign.astype(self.W.dtype)[None, :], 0)

    def __call__(self, input: DaleInput, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of h."""
        signals, noise = input if isinstance(input, tuple) else (input, 0.0)
        drive = self.J @ state + self.b + self.ws @ signals + noise
        return (1 - self.dt) * state + self.dt * NONLINEARITIES[self.nonlinearity](drive)

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros_like(self.b)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """h itself."""
        return state


def _check_nonlinearity(nonlinearity: str):
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"nonlinearity must be 'tanh', 'relu' or 'softplus', got nonlinearity={nonlinearity!r}")
