"""Exponents over many sequences at once: how much they depend on what drives the network."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import check_integer, check_leaves, check_positive
from flossing._compiled import compiled
from flossing._lyapunov import Spectrum, check_spectrum, tangent_flow
from flossing._setup import initial_basis, prepare
from flossing._threads import one_lapack_thread
from flossing._types import Input, RandomKey, State, Step


class Spectra(eqx.Module):
    """Lyapunov exponents of one network along B sequences.

    - `exponents` (B, k): those of each sequence; per step (or unit of time), natural logarithm.
    - `each`: a [`Spectrum`][] whose arrays have a leading axis B: growth, states and bases after the last step; what
      its methods give has that axis, too.
    """

    each: Spectrum

    @property
    def exponents(self) -> Float[Array, "B k"]:
        """The exponents of each sequence."""
        return self.each.exponents

    def mean(self) -> Float[Array, " k"]:
        """The mean over sequences; -inf where it is so for one of them."""
        return self.exponents.mean(0)

    def spread(self) -> Float[Array, " k"]:
        """The standard deviation over sequences (with B - 1); NaN for a single one, and where an exponent is -inf."""
        return jnp.std(self.exponents, axis=0, ddof=1)

    def standard_error(self) -> Float[Array, " k"]:
        """The standard error of the mean, for independent sequences."""
        return self.spread() / jnp.sqrt(jnp.asarray(len(self.exponents), self.exponents.dtype))


def lyapunov_spectra(
    step: Step,
    state: State,
    inputs: Input,
    *,
    batched_state: bool = False,
    k: int | None = None,
    key: RandomKey | None = None,
    basis: ArrayLike | None = None,
    transient: int = 0,
    interval: int = 1,
    steps: int | None = None,
    time_step: float = 1.0,
) -> Spectra:
    """Measure the first `k` Lyapunov exponents of `step` along each of B sequences of inputs.

    **Arguments:** those of [`lyapunov_spectrum`][], except for

    - `inputs`: a pytree whose leaves have shape (B, T, ...); or `None` for an autonomous system from B states.
    - `state`: where all sequences start; with `batched_state=True` its leaves have a leading axis B, one state each.
    - `interval`: an integer, for all sequences; `lyapunov_spectrum` of one of them with "auto" finds a good one.

    All sequences share the initial basis.

    **Returns:** [`Spectra`][], with `exponents` (B, k), `mean()`, `spread()` and `standard_error()`.

    **Raises:** `ValueError` as [`lyapunov_spectrum`][] does, and if the leaves do not share one leading axis.
    """
    # Error checking
    check_leaves("state", state)
    check_leaves("inputs", inputs)
    state, inputs = jax.tree_util.tree_map(jnp.asarray, (state, inputs))
    axes = {"inputs": inputs, "state": state if batched_state else None}
    _common_length(axes)
    one_state = jax.tree_util.tree_map(lambda x: x[0], state) if batched_state else state
    one_input = jax.tree_util.tree_map(lambda x: x[0], inputs)
    *_, length, coordinates = prepare(step, one_state, one_input, steps)
    check_integer("transient", transient, least=0, most=length - 1, note=f" (the run has {length} steps)")
    check_integer("interval", interval, least=1)
    check_positive("time_step", time_step)
    basis = initial_basis(coordinates, k=k, key=key, basis=basis)

    measure = compiled(_flows, step, one_state, one_input)
    with one_lapack_thread():
        each = measure(
            state,
            inputs,
            basis,
            batched_state,
            length=length,
            transient=transient,
            interval=interval,
            time_step=float(time_step),
        )
        check_spectrum(each)
    return Spectra(each)


def _flows(step, state, inputs, basis, batched_state, **options) -> Spectrum:
    flow = functools.partial(tangent_flow, step, basis=basis, **options)
    axes = (0 if batched_state else None, 0)
    return eqx.filter_vmap(lambda state, inputs: flow(state, inputs), in_axes=axes)(state, inputs)


def _common_length(trees: dict[str, Any]):
    lengths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        label = path[0].key + jax.tree_util.keystr(path[1:])
        if leaf.ndim == 0:
            raise ValueError(f"{label} must have a leading axis, one entry a sequence, got a scalar")
        lengths[label] = leaf.shape[0]
    if not lengths:
        raise ValueError("inputs must be given, or batched_state=True, to have sequences, got inputs=None")
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"inputs and state must have one leading axis, one entry a sequence, got lengths {lengths}")
