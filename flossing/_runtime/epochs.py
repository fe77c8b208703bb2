"""The loop over epochs: compiled once per shape, run in chunks of any length."""

import functools
import os
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import PyTree

from flossing._runtime.threads import one_lapack_thread

Update = Callable[[PyTree, Any], tuple[PyTree, PyTree]]
"""One epoch, `update(carry, epoch) -> (carry, record)`. Equal updates share a compiled loop if they are Equinox modules
whose static functions are `interned`."""

COMPILER_OPTIONS: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    "xla_disable_hlo_passes": "tree_reduction_rewriter",
}
"""On the CPU, XLA's newer fusion emitters take twice as long to compile a loop of epochs, which then runs no faster.
XLA's kernel library (YNNPACK) is good at products, but XLA's own loops take half the time to sum over the tangents of
each step. Without first summing groups of 32 they take even less; for so few numbers groups gain no precision."""


def run_chunk(update: Update, carry: PyTree, first: int, count: int, *, capacity: int) -> tuple[PyTree, PyTree]:
    """Run epochs `first, first + 1, ...`, `count <= capacity` of them -> carry, records stacked on a leading axis.

    The number of epochs is a traced value and the records go into buffers of `capacity`, so chunks of different lengths
    share one compilation. Records are NumPy arrays of length `count`; the carry stays on the device.
    """
    if not 0 < count <= capacity:
        raise ValueError(f"count must be an integer from 1 to capacity={capacity}, got count={count}")
    carry = jax.tree_util.tree_map(_strongly_typed, carry)
    with one_lapack_thread():
        carry, buffers = _jitted_run()(update, carry, jnp.asarray(first), jnp.asarray(count), capacity)
        return carry, jax.tree_util.tree_map(lambda b: np.asarray(b)[:count], buffers)


def _strongly_typed(leaf: Any) -> Any:
    # Python numbers become weakly typed arrays; the loop returns strongly typed ones, and would compile for both.
    return jnp.asarray(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


QUICKER: dict[str, Any] = {"xla_backend_optimization_level": 1}
"""LLVM's first level of optimisation saves a second or two of compilation, and programs run as fast. It rounds
sums differently, so it is not for loops whose committed results must be repeated to the digit."""


@functools.cache
def compiler_options(*, quicker: bool = False) -> dict[str, Any]:
    """Those of `COMPILER_OPTIONS` that the installed JAX supports, and that `XLA_FLAGS` does not set."""
    flags, options = os.environ.get("XLA_FLAGS", ""), COMPILER_OPTIONS | (QUICKER if quicker else {})
    wanted = {n: value for n, value in options.items() if not re.search(rf"--{n}(=|\s|$)", flags)}
    return wanted if _is_known(wanted) else {n: value for n, value in wanted.items() if _is_known({n: value})}


def _is_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def _jitted_run() -> Callable:
    return eqx.filter_jit(_run, compiler_options=compiler_options())  # pyright: ignore[reportCallIssue] (passed on to jax.jit)


def _run(update, carry, first, count, capacity):
    arrays, static = eqx.partition(carry, eqx.is_array)

    def epoch(arrays, number):
        carry, record = update(eqx.combine(arrays, static), number)
        return eqx.filter(carry, eqx.is_array), record

    # Traced once: the loop and the shapes of its records would each trace it otherwise.
    traced, types = jax.make_jaxpr(epoch, return_shape=True)(arrays, first)
    structure, run = jax.tree_util.tree_structure(types), jaxpr_as_fun(traced)

    def body(i, loop):
        arrays, buffers = loop
        returned = run(*jax.tree_util.tree_leaves((arrays, first + i)))
        arrays, record = jax.tree_util.tree_unflatten(structure, returned)
        buffers = jax.tree_util.tree_map(lambda b, r: b.at[i].set(r), buffers, record)
        return arrays, buffers

    _, record = types
    buffers = jax.tree_util.tree_map(lambda r: jnp.zeros((capacity, *r.shape), r.dtype), record)
    arrays, buffers = lax.fori_loop(0, count, body, (arrays, buffers))
    return eqx.combine(arrays, static), buffers
