"""Diagonal linear recurrence."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from flossing._checks import check_integer
from flossing._types import RandomKey


class LRU(eqx.Module):
    """N linear recurrent units, each rotating and decaying independently.

        h_{t+1} = lambda h_t + gamma B s_t,      lambda = exp(-exp(nu) + i theta)

    The state h is complex and has 2N real coordinates. Each unit contributes the exponent log|lambda| = -exp(nu) twice,
    along every orbit. It depends only on `nu` and is always below 0: flossing to 0 keeps lowering `nu` and never
    reaches the target. The output is the real parts, then the imaginary parts. Fields, with S inputs: `nu`, `theta` and
    `log_gamma` (N,), `B_real` and `B_imag` (N, S), all real, so that any optimiser can train them.

    Source: Orvieto et al. (ICML 2023).

        cell = fl.cells.LRU(32, key=jax.random.key(0), r_min=0.9, r_max=0.999)
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    nu: Float[Array, " N"]
    theta: Float[Array, " N"]
    log_gamma: Float[Array, " N"]
    B_real: Float[Array, "N S"]
    B_imag: Float[Array, "N S"]

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        r_min: float = 0.4,
        r_max: float = 0.99,
        max_phase: float = 2 * math.pi,
    ):
        """Draw lambda uniformly in the ring `r_min` to `r_max`, with phases from 0 to `max_phase`, in radians.

        `B` is Gaussian with entries of variance 1 / S; `gamma` starts at sqrt(1 - |lambda|^2), which gives all units
        the same variance under white input. Arrays have JAX's default floating dtype, the state its complex form.
        Raises ValueError for a size below 1 or unless 0 <= r_min <= r_max < 1 and r_max > 0.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        if not (0 <= r_min <= r_max < 1 and r_max > 0):
            raise ValueError(f"r_min and r_max must satisfy 0 <= r_min <= r_max < 1, r_max > 0, got {r_min=}, {r_max=}")
        key_r, key_theta, key_real, key_imag = jax.random.split(key, 4)
        # Uniform in area; drawn from (0, 1], since the modulus 0 has no logarithm.
        uniform = 1 - jax.random.uniform(key_r, (units,))
        squared = r_min**2 + (r_max**2 - r_min**2) * uniform
        self.nu = jnp.log(-0.5 * jnp.log(squared))
        self.theta = max_phase * jax.random.uniform(key_theta, (units,))
        self.log_gamma = 0.5 * jnp.log1p(-squared)
        self.B_real = jax.random.normal(key_real, (units, inputs)) / math.sqrt(2 * inputs)
        self.B_imag = jax.random.normal(key_imag, (units, inputs)) / math.sqrt(2 * inputs)

    def __call__(self, input: Float[Array, " S"], state: Complex[Array, " N"]) -> Complex[Array, " N"]:
        """One step of h."""
        modulus, gamma = jnp.exp(-jnp.exp(self.nu)), jnp.exp(self.log_gamma)
        eigenvalue = lax.complex(modulus * jnp.cos(self.theta), modulus * jnp.sin(self.theta))
        return eigenvalue * state + lax.complex(gamma * (self.B_real @ input), gamma * (self.B_imag @ input))

    def zeros(self) -> Complex[Array, " N"]:
        """The zero state."""
        zero = jnp.zeros_like(self.nu)
        return lax.complex(zero, zero)

    def output(self, state: Complex[Array, " N"]) -> Float[Array, " M"]:
        """Real and imaginary parts of h, (2N,)."""
        return jnp.concatenate([jnp.real(state), jnp.imag(state)])
