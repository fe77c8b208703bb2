"""Helpers for tests of the library: dense Jacobians, the engine for a plain step, a schedule of one's own."""

import jax
import jax.numpy as jnp
import numpy as np

from flossing._tangent.adjoint import window_flow
from flossing._tangent.flow import tangent_flow
from flossing._tangent.problem import Problem


def tanh_network(units, gain, key):
    """The step h' = tanh(J h + s) as a function of J, and a J."""
    J = gain * jax.random.normal(key, (units, units)) / np.sqrt(units)
    return (lambda J: lambda h, s: jnp.tanh(J @ h + s)), J


def dense_jacobians(step, state, inputs):
    """The Jacobian of each step (T, N, N), by JAX's own jacfwd."""

    def body(h, s):
        return step(h, s), jax.jacfwd(step)(h, s)

    return jax.lax.scan(body, state, inputs)[1]


def problem_of(step, state, inputs, length) -> Problem:
    """A plain step as the engine's `Problem`."""
    return Problem.of(None, state, inputs, lambda _, h, s: step(h, s), length)


def flow_of(step, state, inputs, basis, *, length, **options):
    """The tangent flow of a plain step."""
    return tangent_flow(problem_of(step, state, inputs, length), basis, **options)


def growth_of(step, state, inputs, basis, interval, *, length, **options):
    """log R_ii at each step of a plain step, by our own adjoint."""
    return window_flow(problem_of(step, state, inputs, length), basis, interval, **options)[0]


class OwnSchedule:
    """Nothing but the two methods of the protocol: two flossing epochs before every `period`-th training epoch."""

    def __init__(self, period):
        self.period = period

    def next_query(self, epoch):
        return self.period * (epoch // self.period + 1)

    def __call__(self, epoch, measures):
        return 2
