"""Other ways to train recurrent networks over long horizons: starts, cells and penalties to compare flossing with.

Starts and cells are called as `make(units, inputs, key=key, **settings)`. A penalty is a term of the loss of training,
`penalty(network, batch, task) -> scalar`, which a setting `weight` multiplies.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

import flossing as fl


def identity_start(units: int, inputs: int, *, key: Any, gain: float = 1.0, input_scale: float = 1.0):
    """ReLU units with the identity as recurrent weights, times `gain`, and no bias (Le, Jaitly & Hinton 2015)."""
    options = {"dt": 1.0, "nonlinearity": "relu", "bias_scale": 0.0, "input_scale": input_scale}
    cell = fl.cells.LeakyRNN(units, inputs, key=key, **options)
    return eqx.tree_at(lambda cell: cell.J, cell, gain * jnp.eye(units))


def as_torch(units: int, inputs: int, *, key: Any) -> fl.cells.VanillaRNN:
    """Tanh units as `nn.RNN` of PyTorch draws them, all within 1 / sqrt(N); its two biases add up."""
    cell, bound = fl.cells.VanillaRNN(units, inputs, key=key), units**-0.5
    shapes = (cell.J.shape, cell.ws.shape, cell.b.shape, cell.b.shape)
    keys = jax.random.split(key, len(shapes))
    J, ws, *biases = (
        jax.random.uniform(key, shape, minval=-bound, maxval=bound) for key, shape in zip(keys, shapes, strict=True)
    )
    return eqx.tree_at(lambda cell: (cell.J, cell.ws, cell.b), cell, (J, ws, sum(biases)))


class OrthogonalRNN(eqx.Module):
    """Tanh units whose recurrent weights stay orthogonal: J = exp(A - A'), as Lezcano-Casado & Martinez-Rubio (2019).

        h_{t+1} = tanh(exp(A - A') h_t + b + ws s_t / S)

    `A` is drawn so that J has eigenvalues of all angles: blocks of rotations, uniform in (-pi, pi).
    """

    A: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]

    def __init__(self, units: int, inputs: int, *, key: Any, input_scale: float = 1.0, bias_scale: float = 0.0):
        key_A, key_ws, key_b = jax.random.split(key, 3)
        angles = jax.random.uniform(key_A, (units // 2,), minval=-jnp.pi, maxval=jnp.pi)
        even = jnp.arange(0, 2 * (units // 2), 2)
        self.A = jnp.zeros((units, units)).at[even, even + 1].set(angles)
        self.ws = input_scale * jax.random.normal(key_ws, (units, inputs))
        self.b = bias_scale * jax.random.uniform(key_b, (units,))

    @property
    def J(self) -> Float[Array, "N N"]:
        """The orthogonal weights."""
        return jax.scipy.linalg.expm(self.A - self.A.T)

    def __call__(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of h."""
        return jnp.tanh(self.J @ state + self.b + self.ws @ input / input.size)

    def with_task_surrogate(self) -> fl.cells.VanillaRNN:
        """The same network with J computed: `cells.Network` calls this once for a sequence."""
        plain = fl.cells.VanillaRNN(len(self.b), self.ws.shape[1], key=jax.random.key(0))
        return eqx.tree_at(lambda cell: (cell.J, cell.ws, cell.b), plain, (self.J, self.ws, self.b))

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros_like(self.b)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """h itself."""
        return state


class CoupledOscillators(eqx.Module):
    """The coRNN of Rusch & Mishra (ICLR 2021): N damped oscillators, coupled through tanh; the state is (y, z).

    z_{t+1} = z_t + dt (tanh(J y_t + W z_t + b + ws s_t) - gamma y_t - epsilon z_t),      y_{t+1} = y_t + dt z_{t+1}
    """

    J: Float[Array, "N N"]
    W: Float[Array, "N N"]
    ws: Float[Array, "N S"]
    b: Float[Array, " N"]
    dt: float = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self,
        units: int,
        inputs: int,
        *,
        key: Any,
        dt: float = 0.1,
        gamma: float = 2.0,
        epsilon: float = 2.0,
        input_scale: float = 1.0,
    ):
        keys = jax.random.split(key, 3)
        self.J, self.W = (jax.random.normal(each, (units, units)) / jnp.sqrt(units) for each in keys[:2])
        self.ws = input_scale * jax.random.normal(keys[2], (units, inputs))
        self.b = jnp.zeros(units)
        self.dt, self.gamma, self.epsilon = float(dt), float(gamma), float(epsilon)

    def __call__(self, input: Float[Array, " S"], state: tuple[Array, Array]) -> tuple[Array, Array]:
        """One step of (y, z)."""
        y, z = state
        force = jnp.tanh(self.J @ y + self.W @ z + self.b + self.ws @ input)
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        return y + self.dt * z, z

    def zeros(self) -> tuple[Array, Array]:
        """The zero state."""
        return jnp.zeros_like(self.b), jnp.zeros_like(self.b)

    def output(self, state: tuple[Array, Array]) -> Float[Array, " N"]:
        """y."""
        return state[0]


def soft_orthogonality(network: fl.cells.Network, batch: Any, task: Any) -> Float[Array, ""]:
    """||J'J - I||^2 / N, with the squared Frobenius norm (Vorontsov et al. 2017)."""
    J: Array = network.cell.J  # pyright: ignore[reportAttributeAccessIssue]
    return jnp.sum(jnp.square(J.T @ J - jnp.eye(len(J)))) / len(J)


def vanishing_gradients(network: fl.cells.Network, batch: Any, task: Any) -> Float[Array, ""]:
    """Omega of Pascanu, Mikolov & Bengio (ICML 2013): the mean of (|J_t' g_{t+1}| / |g_{t+1}| - 1)^2 over steps.

    g_t = dL/dh_t. Only J_t is differentiated by the weights; states and g_t are constants, as in the paper.
    """
    states = _states(network, batch)

    def task_loss(moves):
        outputs = jax.vmap(jax.vmap(lambda h: network.readout(network.cell.output(h))))(_states(network, batch, moves))
        return jax.vmap(task.score)(outputs, batch).loss.mean()

    g = jax.grad(task_loss)(jnp.zeros_like(states))
    before = jnp.concatenate([jnp.zeros_like(states[:, :1]), states[:, :-1]], axis=1)

    def ratio(h, s, g):
        (back,) = jax.vjp(lambda h: network.cell(s, h), h)[1](g)
        return jnp.square(_norm(back) / _norm(g) - 1)

    ratios = jax.vmap(jax.vmap(ratio))(*map(lax.stop_gradient, (before, batch.inputs, g)))
    return jnp.mean(ratios)


def one_step_jacobians(network: fl.cells.Network, batch: Any, task: Any) -> Float[Array, ""]:
    """The mean of (|D_t v| / |v| - 1)^2 over steps, for one random vector v per sequence: isometry of single steps."""
    states = _states(network, batch)
    v = jax.random.normal(jax.random.key(0), states[:, 0].shape, states.dtype)

    def ratio(h, s, v):
        pushed = jax.jvp(lambda h: network.cell(s, h), (h,), (v,))[1]
        return jnp.square(_norm(pushed) / _norm(v) - 1)

    along = jax.vmap(jax.vmap(ratio, (0, 0, None)))
    return jnp.mean(along(states[:, :-1], batch.inputs[:, 1:], v))


PENALTIES = {"orthogonality": soft_orthogonality, "vanishing": vanishing_gradients, "isometry": one_step_jacobians}
"""The penalties by name."""

CELLS = {"torch": as_torch, "identity": identity_start, "orthogonal": OrthogonalRNN, "oscillators": CoupledOscillators}
"""The starts and cells by name."""


def _states(network: fl.cells.Network, batch: Any, moves: Array | None = None) -> Float[Array, "B T N"]:
    """The states after each step, each moved by `moves` (B, T, N), by default not at all."""

    def along(inputs, moves):
        def body(h, at):
            input, move = at
            h = network.cell(input, h) + move
            return h, h

        return lax.scan(body, network.zeros(), (inputs, moves))[1]

    shape = (*batch.inputs.shape[:2], network.zeros().size)
    return jax.vmap(along)(batch.inputs, jnp.zeros(shape, batch.inputs.dtype) if moves is None else moves)


def _norm(x: Float[Array, " N"]) -> Float[Array, ""]:
    """The norm, with a gradient at 0."""
    return jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-30)
