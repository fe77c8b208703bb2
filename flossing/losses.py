"""What flossing minimises: a loss is a function `loss(measured) -> scalar` of what an epoch measures.

`exponents` is the loss of the paper. It pulls k exponents to their target,

    L_keep = mean_i (lambda_i - target_i)^2,

and acts on how a network keeps its state, dh'/dh. Closed gates minimise it too: the state is kept, but nothing is
written.

`Memory` acts on what inputs leave in the state. How a state depends on the input d steps ago is the product of d
Jacobians with the input matrix, T_d B, and differs from orbit to orbit. A readout has the same weights on every orbit,
so only the mean of T_d B can be read. For Gaussian inputs of variance v, integration by parts (Stein's lemma) gives

    <T_d B> v = <h_t s_{t-d}> = c_d,

a covariance (for inputs of mean 0), which needs no tangents. The share of the variance of s_{t-d} that a linear readout
recovers from the state with noise of standard deviation sigma is the memory function (Jaeger 2001; the noise is ours)

    M_d = c_d^T (C + sigma^2)^-1 c_d / v,        C = cov(h),

and k directions can hold k numbers, the last D = k / S inputs of S channels (whose covariances and variances are summed
before they are divided):

    L_write = 1 - mean_{d < D} M_d.

The noise, sigma^2 = noise^2 (1 + <h^2>) on each coordinate, sets a scale. Signals much weaker than it count as lost, so
a network cannot gain memory by shrinking its inputs until it is linear. A saturated network loses memory too. In units
that do not saturate, a direction that explodes raises the noise on all others.

`KeepAndWrite`, the default of `floss`, is the sum L_keep / 10 + L_write.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from flossing._checks import check_integer, check_positive, is_concrete
from flossing._linalg.precision import in_full_precision
from flossing._messages import infinite_exponent_message
from flossing._tangent.coordinates import real_coordinates
from flossing._tangent.keys import with_fresh_keys
from flossing._tangent.problem import Problem
from flossing._types import Input, RandomKey, State


class Measured(eqx.Module):
    """What a flossing epoch measures, as a loss receives it.

    - `exponents` (k,), or (B, k) with B sequences: per step, natural logarithm; `target`, as given to `floss`.
    - `model`: the model whose parameters are flossed.
    - `inputs`: the inputs of the window, (T, ...) or (B, T, ...) on every leaf; None for an autonomous system.
    - `window`: T, the steps of the window; `transient`: those at its start that are left out of the average.
    - `lengths` (B,): the steps of each sequence, as given to `floss`; None if all have one length.

    `states()` gives the orbit, and `probes` orbits along white inputs. They are computed only if a loss calls them.
    """

    exponents: Float[Array, "*B k"]
    target: Float[Array, "..."]
    model: PyTree
    inputs: Input
    start: State
    lengths: Any
    key: RandomKey
    step: Callable = eqx.field(static=True)
    window: int = eqx.field(static=True)
    transient: int = eqx.field(static=True)
    batch_axes: tuple[int | None, int | None] | None = eqx.field(static=True)

    def states(self) -> Float[Array, "*B T N"]:
        """The real coordinates of the state after each step of the window, padded steps included."""
        if self.batch_axes is None:
            return self._orbit(self.start, self.inputs)
        return jax.vmap(self._orbit, self.batch_axes)(self.start, self.inputs)

    def probes(self, count: int) -> tuple[Float[Array, "P T S"], Float[Array, "P T N"]]:
        """`count` sequences of white inputs, their real coordinates, and the states after each step.

        Every step has the input of a random step of `inputs`, drawn with replacement, anew in each epoch. Past inputs
        are then independent, and a state that depends on them must have kept them itself.
        """
        has_starts, has_inputs = self.batch_axes or (None, None)
        row_key, time_key, noise_key = jax.random.split(self.key, 3)
        shape = (count, self.window)
        if has_inputs is None:
            at: Any = jax.random.randint(time_key, shape, 0, self.window, jnp.int32)
        else:
            size = jax.tree_util.tree_leaves(self.inputs)[0].shape[0]
            rows = jax.random.randint(row_key, shape, 0, size, jnp.int32)
            lengths = self.window if self.lengths is None else jnp.minimum(self.lengths, self.window)[rows]
            at = rows, jax.random.randint(time_key, shape, 0, lengths, jnp.int32)
        inputs = jax.tree_util.tree_map(lambda leaf: leaf[at], self.inputs)
        start, axis = self.start, None
        if has_starts is not None:
            start = jax.tree_util.tree_map(lambda leaf: leaf[jnp.arange(count) % leaf.shape[0]], start)
            axis = 0

        def orbit(start, inputs, key):
            return self._orbit(with_fresh_keys(start, key), inputs)  # noise of its own

        states = jax.vmap(orbit, (axis, 0, 0))(start, inputs, jax.random.split(noise_key, count))
        return jax.vmap(jax.vmap(real_coordinates))(inputs), states

    def _orbit(self, start: State, inputs: Input) -> Float[Array, "T N"]:
        problem = Problem.of(self.model, start, inputs, self.step, self.window)
        return problem.states()[0]


Loss: TypeAlias = Callable[[Measured], Float[Array, ""]]


def flossing_loss(exponents: Float[Array, "*B k"], target: ArrayLike = 0.0) -> Float[Array, ""]:
    """Mean squared distance of the exponents to their target, `mean_i (lambda_i - target_i)^2`.

    **Arguments:** `exponents` (k,), per step (natural logarithm), or (B, k) for B sequences, averaged as well;
    `target`, a number for all or one for each (k,).

    **Returns:** a scalar of the exponents' dtype.

    **Raises:** `ValueError` if the target is neither a scalar nor of shape (k,), and, outside `jit`, if an exponent
    is infinite. Inside `jit` the loss is then infinite, and the gradient of the finite exponents is not affected.

    **Source:** Engelken (NeurIPS 2023), section 3.

        loss = fl.flossing_loss(fl.lyapunov_spectrum(cell, inputs, k=8).exponents)
    """
    exponents = jnp.asarray(exponents)
    target = jnp.asarray(target, exponents.dtype)
    if target.shape not in ((), exponents.shape[-1:]):
        raise ValueError(
            f"target must be a scalar or have shape {exponents.shape[-1:]} like exponents, got shape {target.shape}"
        )
    if is_concrete(exponents) and not np.isfinite(exponents).all():
        raise ValueError(infinite_exponent_message(np.asarray(exponents)))
    return jnp.mean(jnp.square(exponents - jnp.broadcast_to(target, exponents.shape)))


def exponents(measured: Measured) -> Float[Array, ""]:
    """The loss of the paper, `flossing_loss(measured.exponents, measured.target)`.

    **Source:** Engelken (NeurIPS 2023), section 3.

        cell, history = fl.floss(cell, inputs, loss=fl.losses.exponents)
    """
    return flossing_loss(measured.exponents, measured.target)


@dataclasses.dataclass(frozen=True)
class Memory:
    """One minus the mean share of the variance of the last inputs that a linear readout of the state recovers, 0 to 1.

    - `noise`: the noise added to each real coordinate of the state has the standard deviation
      `noise * sqrt(1 + mean(h**2))`.
    - `samples`: how many states are measured per coordinate of the state; they come from as many orbits along white
      inputs as this takes.

    With k exponents and S real input channels it covers the last k / S inputs, rounded down, at least one, at most half
    the window. Every floating number of an input is a channel, including noise. The share is measured on the samples
    that the readout is fitted to, and so is too high by up to 1 / `samples`. The loss is 0 for inputs without floating
    numbers and for autonomous systems.

    **Source:** the memory function is Jaeger's (2001). The equation is given at the top of this module.

        cell, history = fl.floss(cell, inputs, k=32, loss=fl.losses.Memory(noise=0.1))
    """

    noise: float = 0.03
    samples: int = 8

    def __post_init__(self):
        check_positive("noise", self.noise)
        check_integer("samples", self.samples, least=1)

    @in_full_precision
    def __call__(self, measured: Measured) -> Float[Array, ""]:
        """L_write."""
        k, dtype = measured.exponents.shape[-1], measured.exponents.dtype
        if not jax.tree_util.tree_leaves(measured.inputs):
            return jnp.zeros((), dtype)
        inputs, states = jax.eval_shape(lambda: measured.probes(1))
        channels, size = inputs.shape[-1], states.shape[-1]
        if not channels:
            return jnp.zeros((), dtype)
        delays = min(max(k // channels, 1), max(measured.window // 2, 1))
        first = max(delays - 1, measured.transient)
        inputs, states = measured.probes(math.ceil(self.samples * size / (measured.window - first)))
        return 1 - jnp.mean(memory_shares(inputs, states, delays, first, self.noise)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class KeepAndWrite:
    """The default loss of flossing: the exponents near their target, and the last inputs readable from the state.

        L = weight L_keep + L_write

    - `weight`: how much the exponents count; `memory`: the settings of L_write, as in [`losses.Memory`][].

        cell, history = fl.floss(cell, inputs, loss=fl.losses.KeepAndWrite(weight=1.0))
    """

    weight: float = 0.1
    memory: Memory = Memory()

    def __post_init__(self):
        check_positive("weight", self.weight)

    def __call__(self, measured: Measured) -> Float[Array, ""]:
        """The weighted sum."""
        return self.weight * exponents(measured) + self.memory(measured)


def memory_shares(
    inputs: Float[Array, "P T S"], states: Float[Array, "P T N"], delays: int, first: int, noise: float
) -> Float[Array, " D"]:
    """M_d for d = 0 ... `delays` - 1 over the steps from `first` on, all channels together; not corrected for bias."""
    window, size = states.shape[1:]
    inputs = inputs.astype(states.dtype)
    lagged = jnp.stack([inputs[:, first - d : window - d] for d in range(delays)], axis=2)  # (P, T', D, S)
    h = states[:, first:].reshape(-1, size)
    s = lagged.reshape(len(h), -1)
    variance_of_noise = noise**2 * (1 + jnp.mean(jnp.square(h)))
    h, s = h - h.mean(0, keepdims=True), s - s.mean(0, keepdims=True)
    covariance = h.T @ h / len(h) + variance_of_noise * jnp.eye(size, dtype=h.dtype)
    c = h.T @ s / len(h)
    recovered = jnp.sum(c * jax.scipy.linalg.solve(covariance, c, assume_a="pos"), axis=0).reshape(delays, -1).sum(1)
    variance = jnp.mean(jnp.square(s), axis=0).reshape(delays, -1).sum(1)
    return jnp.where(variance > 0, recovered / jnp.where(variance > 0, variance, 1), 0)
