"""A measurement as one compiled program, whatever kind of function its step is.

Outside `jit`, JAX compiles operation by operation: a spectrum would cost some twenty-five compilations around that of
its scan, and with a gradient forty.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax

from flossing._linalg.precision import in_full_precision
from flossing._tangent.coordinates import shape_of_one
from flossing._types import Input, State, Step


@in_full_precision  # for the step, which is traced here
def compiled(flow: Callable, step: Step, state: State, inputs: Input, *functions: Callable) -> Callable:
    """`flow` with `step` as its first argument, compiled whole; `functions` are others that it will be called with.

    `inputs` have a leading time axis. The program of an Equinox module is found again by later calls. A plain function
    may close over arrays that the user rebinds between calls, of which a cache would not know: it is traced every time,
    and its arrays become arguments of the program, so that a cache on disk finds it with other weights.
    """
    if _may_cache(step, *functions):
        return functools.partial(eqx.filter_jit(flow), step)
    step = functools.partial(step)  # or Equinox would leave the arrays of a function of globals where they are
    step = eqx.filter_closure_convert(step, state, shape_of_one(inputs))
    return functools.partial(_compiled_once(flow), step)


def _may_cache(*functions: Any) -> bool:
    # An Equinox module carries its arrays as leaves and may be found by its structure, if no function hides in it that
    # could close over others.
    return all(isinstance(f, eqx.Module) and all(map(_is_constant, _parts(f))) for f in functions)


def _parts(tree: Any) -> Iterator[Any]:
    """All leaves, and the static fields of all modules."""
    for part in jax.tree_util.tree_leaves(tree, is_leaf=lambda x: isinstance(x, eqx.Module) and x is not tree):
        if not isinstance(part, eqx.Module):
            yield part
        elif part is not tree:
            yield from _parts(part)
    if isinstance(tree, eqx.Module):
        yield from (getattr(tree, f.name) for f in dataclasses.fields(tree) if f.metadata.get("static"))


def _is_constant(part: Any) -> bool:
    if not callable(part) or isinstance(part, type):
        return True
    # A function of JAX's or of ours, such as an activation, reads no arrays of the user's; but ours may close over
    # functions that do, as the step of `flows.rk4` does.
    home = (getattr(part, "__module__", None) or "").split(".")[0]
    return home in ("jax", "equinox", "flossing") and getattr(part, "__closure__", None) is None


def _compiled_once(flow: Callable) -> Callable:
    def call(*args, **options):
        arrays, static = eqx.partition((args, options), eqx.is_array)

        @jax.jit  # of a function that no one else will hold: what was compiled is given up with it
        def run(arrays):
            args, options = eqx.combine(arrays, static)
            return flow(*args, **options)

        return run(arrays)

    return call
