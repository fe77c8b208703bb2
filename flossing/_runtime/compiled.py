"""Compile a measurement as one program, and reuse it in later calls.

Outside `jit`, JAX compiles operation by operation: besides its scan, a spectrum would take about twenty-five
compilations, and with a gradient forty.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from flossing._tangent.problem import Problem
from flossing._tangent.traced import TracedStep

CACHE_SIZE = 64
"""Number of measurements whose programs stay in memory, each for all shapes it was called with; a few MB each."""


def compiled(flow: Callable, problem: Problem) -> Callable:
    """`flow(problem, ...)` as one program: arrays are its arguments, everything else is compiled in.

    A later call reuses the program if its step computes the same, whatever arrays its model holds. `problem` must come
    from `set_up`, which traces its step.
    """
    assert isinstance(problem.step, TracedStep)
    run = _program(flow, problem.step)

    def call(*args: Any, **options: Any) -> Any:
        leaves, structure = jax.tree_util.tree_flatten((args, options))
        is_array = tuple(map(eqx.is_array, leaves))
        arrays = [leaf for leaf, dynamic in zip(leaves, is_array, strict=True) if dynamic]
        static = tuple(None if dynamic else leaf for leaf, dynamic in zip(leaves, is_array, strict=True))
        return run(arrays, is_array, static, structure)

    return functools.partial(call, problem)


@functools.lru_cache(maxsize=CACHE_SIZE)
def _program(flow: Callable, step: TracedStep) -> Callable:
    # Each cache entry has its own function, so JAX frees the compiled code when the cache evicts the entry.
    @functools.partial(jax.jit, static_argnums=(1, 2, 3))
    def run(arrays, is_array, static, structure):
        dynamic = iter(arrays)
        leaves = [next(dynamic) if each else leaf for each, leaf in zip(is_array, static, strict=True)]
        args, options = jax.tree_util.tree_unflatten(structure, leaves)
        return flow(*args, **options)

    return run
