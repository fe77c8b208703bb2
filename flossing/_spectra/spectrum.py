"""The result of a measurement: Lyapunov exponents, their growth and errors, and the state that continues the run."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flossing._checks import is_concrete
from flossing._estimate import BATCHES, SPLIT, Estimate
from flossing._spectra.statistics import (
    Uncertainty,
    batch_means,
    dimension_weights,
    kaplan_yorke_dimension,
)
from flossing._types import State
from flossing._views import describe_spectrum, spectrum_dataset, spectrum_frame, spectrum_table


class Spectrum(eqx.Module):
    """Lyapunov exponents of one network along one sequence, or along each of B sequences.

    - `exponents` (k,): per step (per unit of time if a `time_step` was given), natural logarithm. Their order is that
      of the columns of Q: descending over long times; over short ones neighbours may change places, and are not sorted.
      They depend on the orbit: with inputs, they are the exponents of the driven system.
    - `log_growth` (blocks, k): log R_ii of each block of `interval` steps after the transient; the last block may be
      shorter. `exponents` is its sum over blocks, divided by `steps * time_step`.
    - `state`: the state after the last step, structured as the one given.
    - `basis` (N, k): the orthonormal basis after the last step. `state` and `basis` continue the run.
    - `transient_log_growth` (before, k): the growth of the blocks of the transient.
    - `steps`, `interval`, `time_step`: the number of steps averaged, the steps per block, the duration of one step.
    - `steps_of_each` (B,): the number of steps averaged in each sequence, if `lengths` were given; else None. The
      growth of later blocks is 0.

    Along B sequences every array has a leading axis B, and so have the results of all methods but `mean`, `std` and
    `standard_error`, which reduce over sequences.

        spectrum = fl.lyapunov_spectrum(cell, inputs, k=8)
        print(spectrum.exponents, spectrum.uncertainty().standard_error)
    """

    exponents: Float[Array, "*B k"]
    log_growth: Float[Array, "*B blocks k"]
    state: State
    basis: Float[Array, "*B N k"]
    transient_log_growth: Float[Array, "*B before k"]
    steps: int = eqx.field(static=True)
    interval: int = eqx.field(static=True)
    time_step: float = eqx.field(static=True)
    steps_of_each: Int[Array, " B"] | None = None

    def __repr__(self) -> str:
        is_measured = eqx.is_array_like(self.exponents) and is_concrete(self)  # not traced, nor a tree of shapes
        return describe_spectrum(self) if is_measured else eqx.tree_pformat(self)

    def table(self) -> str:
        """All exponents, as the command line prints them; for many sequences, means. `± <` marks an upper bound."""
        return spectrum_table(self)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with columns `exponent` and `standard_error`, indexed by i from 1, or (sequence, i)."""
        return spectrum_frame(self)

    def to_xarray(self) -> Any:
        """An xarray Dataset with `exponents`, `standard_error` and `log_growth`."""
        return spectrum_dataset(self)

    def running_mean(self) -> Float[Array, "*B blocks k"]:
        """The running average of the exponents after each block, which shows its convergence."""
        ends = jnp.arange(1, self.log_growth.shape[-2] + 1, dtype=jnp.int32) * self.interval
        last = jnp.asarray(self.steps, jnp.int32) if self.steps_of_each is None else self.steps_of_each
        steps = jnp.minimum(ends.reshape(*[1] * last.ndim, -1), last[..., None])
        time = jnp.broadcast_to(steps.astype(self.log_growth.dtype)[..., None] * self.time_step, self.log_growth.shape)
        return jnp.cumsum(self.log_growth, axis=-2) / time

    def all_log_growth(self) -> Float[Array, "*B blocks k"]:
        """log R_ii of each block, those of the transient first."""
        return jnp.concatenate([self.transient_log_growth, self.log_growth], axis=-2)

    def uncertainty(self, batches: int = BATCHES) -> Uncertainty:
        """The standard errors of the exponents by batch means, in their unit; see [`Uncertainty`][].

        Raises ValueError if there are fewer than `8 * batches` blocks.
        """
        if self.steps_of_each is not None:
            raise ValueError("uncertainty must be of sequences of one length, got a spectrum with lengths")
        whole = self.steps // self.interval
        return batch_means(self.log_growth[..., :whole, :], self.interval * self.time_step, batches)

    def kaplan_yorke_dimension(self, batches: int = BATCHES) -> Estimate:
        """The Kaplan-Yorke dimension with its standard error; see [`kaplan_yorke_dimension`][].

        A sum of exponents within two standard errors of 0 counts as 0 if its last exponent is as near to 0: on a limit
        cycle, whose largest exponent is 0, the dimension is 1. The error is that of a time average of the growth,
        weighted by the derivative of the dimension. Raises ValueError if k exponents do not determine it.
        """
        complete = self.exponents.shape[-1] == self.basis.shape[-2]
        enough = self.steps // self.interval >= SPLIT * batches and self.steps_of_each is None
        errors = self.uncertainty(batches).standard_error if enough else jnp.zeros_like(self.exponents)
        value = kaplan_yorke_dimension(self.exponents, complete=complete, standard_error=errors)
        if not enough:
            return Estimate(value, jnp.full_like(value, jnp.nan))
        weights = dimension_weights(self.exponents, errors)[..., None, :]
        weighted = jnp.where(weights == 0, 0, self.log_growth * weights).sum(-1, keepdims=True)
        whole = self.steps // self.interval
        error = batch_means(weighted[..., :whole, :], self.interval * self.time_step, batches).standard_error[..., 0]
        return Estimate(value, error)

    def mean(self) -> Float[Array, " k"]:
        """The mean over sequences; -inf where one of them has -inf."""
        return self._of_batch("mean").mean(0)

    def std(self) -> Float[Array, " k"]:
        """The standard deviation over sequences (with B - 1); NaN for a single one, and where an exponent is -inf."""
        return jnp.std(self._of_batch("std"), axis=0, ddof=1)

    def standard_error(self) -> Float[Array, " k"]:
        """The standard error of the mean over independent sequences."""
        exponents = self._of_batch("standard_error")
        return jnp.std(exponents, axis=0, ddof=1) / jnp.sqrt(jnp.asarray(len(exponents), exponents.dtype))

    def _of_batch(self, name: str) -> Float[Array, "B k"]:
        if self.exponents.ndim < 2:
            raise ValueError(
                f"{name} is taken over sequences, and this spectrum is of a single one: measure inputs with a leading "
                "batch axis, or see uncertainty() for the error of a time average"
            )
        return self.exponents
