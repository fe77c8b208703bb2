"""Lyapunov exponents of torch modules and of steps written in torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing._arguments import check_integer, check_positive
from flossing._estimate import BATCHES
from flossing._messages import escape_message, warn
from flossing._tangent.interval import (
    PROBE_STEPS,
    interval_message,
    longer_interval,
    loses_directions,
    power_of_two,
    shorter_interval,
)
from flossing._views import describe_spectrum, spectrum_dataset, spectrum_frame, spectrum_table
from flossing.pytorch._arguments import check_tensors, check_transient, initial_bases, own_transient
from flossing.pytorch._reading import read_system
from flossing.pytorch._spread import spread_ratio
from flossing.pytorch._subspace import restrict
from flossing.pytorch._surroundings import in_own_surroundings
from flossing.pytorch._system import Engine, System
from flossing.pytorch._torch_engine import Flow


@dataclass(frozen=True, repr=False)
class Spectrum:
    """Lyapunov exponents of one network along one sequence, or along each of B; tensors of the state's dtype.

    - `exponents` (k,): per step (per unit of time if a `time_step` was given), natural logarithm; those of the driven
      system.
    - `log_growth` (blocks, k): log R_ii of each block of `interval` steps after the transient; the last block may be
      shorter. `exponents` is its sum over blocks, divided by `steps * time_step`.
    - `state`: the state after the last step, structured as the one given, as the module itself returns it.
    - `basis` (N, k): the orthonormal basis after the last step. `state` and `basis` continue the run.
    - `transient_log_growth` (before, k): the growth of the blocks of the transient.
    - `steps`, `interval`, `time_step`: the number of steps averaged, the steps per block, the duration of one step.
    - `steps_of_each` (B,): the number of steps averaged in each sequence, if they have lengths; else None. The
      growth of later blocks is 0.

    Along B sequences all tensors have a leading axis B, except the `state` of a module, which has the module's own
    layout.

        spectrum = flt.lyapunov_spectrum(torch.nn.GRU(3, 64), torch.randn(200, 3), k=8)
        print(spectrum.exponents)
    """

    exponents: Float[Tensor, "... k"]
    log_growth: Float[Tensor, "... blocks k"]
    state: Any
    basis: Float[Tensor, "... N k"]
    transient_log_growth: Float[Tensor, "... before k"]
    steps: int
    interval: int
    time_step: float
    steps_of_each: Int[Tensor, " B"] | None = None

    def __repr__(self) -> str:
        return describe_spectrum(self)

    def table(self) -> str:
        """All exponents, as the command line prints them; of many sequences their mean."""
        return spectrum_table(self)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with columns `exponent` and `standard_error`, indexed by i from 1, or (sequence, i)."""
        return spectrum_frame(self)

    def to_xarray(self) -> Any:
        """An xarray Dataset with `exponents`, `standard_error` and `log_growth`."""
        return spectrum_dataset(self)

    def running_mean(self) -> Float[Tensor, "... blocks k"]:
        """The running average of the exponents after each block, which shows its convergence."""
        blocks = torch.arange(1, self.log_growth.shape[-2] + 1, device=self.log_growth.device)
        ends = blocks * self.interval
        steps = (
            ends.clamp(max=self.steps)
            if self.steps_of_each is None
            else torch.minimum(ends, self.steps_of_each[:, None])
        )
        return self.log_growth.cumsum(-2) / (steps.to(self.log_growth.dtype)[..., None] * self.time_step)

    def all_log_growth(self) -> Float[Tensor, "... blocks k"]:
        """log R_ii of each block, those of the transient first."""
        return torch.cat([self.transient_log_growth, self.log_growth], dim=-2)

    def uncertainty(self, batches: int = BATCHES) -> Any:
        """The standard errors by batch means, an [`Uncertainty`][flossing.Uncertainty] of NumPy arrays.

        Raises ValueError if there are fewer than `8 * batches` blocks, and for sequences of several lengths.
        """
        if self.steps_of_each is not None:
            raise ValueError("uncertainty must be of sequences of one length, got a spectrum with lengths")
        import jax  # imported here, when it is first needed

        from flossing._spectra.statistics import batch_means
        from flossing.pytorch import _jax_engine

        growth = self.log_growth.detach().cpu()[..., : self.steps // self.interval, :]
        with _jax_engine.settings([growth]):
            found = batch_means(jax.numpy.asarray(growth.numpy()), self.interval * self.time_step, batches)
            error, bound = np.array(found.standard_error), np.array(found.is_upper_bound)
        return found._replace(standard_error=error, is_upper_bound=bound)

    def mean(self) -> Float[Tensor, " k"]:
        """The mean over sequences; -inf where one of them has -inf."""
        return self._of_batch("mean").mean(0)

    def std(self) -> Float[Tensor, " k"]:
        """The standard deviation over sequences (with B - 1); NaN for a single one, and where an exponent is -inf."""
        exponents = self._of_batch("std")
        return exponents.std(0) if len(exponents) > 1 else torch.full_like(exponents[0], torch.nan)

    def standard_error(self) -> Float[Tensor, " k"]:
        """The standard error of the mean over independent sequences."""
        many = self._of_batch("standard_error")
        return self.std() / len(many) ** 0.5

    def _of_batch(self, name: str) -> Float[Tensor, "B k"]:
        if self.exponents.ndim < 2:
            raise ValueError(
                f"{name} is taken over sequences, and this spectrum is of one: measure inputs with a batch axis, or "
                "see uncertainty() for the error of a time average"
            )
        return self.exponents


@in_own_surroundings
def lyapunov_spectrum(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    k: int | None = None,
    generator: torch.Generator | None = None,
    basis: Any = None,
    step: Callable | None = None,
    batched: bool | None = None,
    lengths: Any = None,
    transient: int | None = None,
    interval: int | Literal["auto"] = 1,
    steps: int | None = None,
    time_step: float = 1.0,
    engine: Engine = "auto",
) -> Spectrum:
    """Measure the first `k` Lyapunov exponents of a recurrent PyTorch network along `inputs`.

    **Arguments:**

    - `model`: an `nn.RNN`, `nn.GRU`, `nn.LSTM` of any number of layers, an `nn.RNNCell`, `nn.GRUCell`, `nn.LSTMCell`;
      any other module, called like a torch cell, `cell(input, state) -> state`; or a function
      `step(state, input) -> state`. Your own module or function must be pure.
    - `inputs`: (T, S), or (T, B, S) for a torch module, (B, T, S) if it is `batch_first`; each of the B sequences then
      has its own exponents. For your own cell or step, a tensor or pytree of tensors with a leading time axis of T, or
      None for an autonomous system, which needs `steps=T` and is called with the input None.
    - `state`: h or (h, c) of a torch module, zeros by default; for your own cell or step a tensor, or tuples and dicts
      of tensors. Its N real coordinates are the entries of the floating tensors, as in
      [`flossing.lyapunov_spectrum`][].
    - `k`: how many exponents, 1 to N; all N if neither `k` nor `basis` is given.
    - `generator`: draws the initial basis, the Q factor of a Gaussian N x k matrix; a generator with seed 0 by default.
    - `basis`: the initial basis (N, k), instead of a random one; its columns are orthonormalised first. With a batch it
      may also have shape (B, N, k), like the `basis` of an earlier result.
    - `step`: `step(model, state, input) -> state`, for a model with another calling convention.
    - `batched`: whether inputs of your own cell or step have a leading batch axis, (B, T, ...); each sequence is then
      measured on its own. `state` is one for all, or has a leading axis B.
    - `lengths` (B,): the number of steps of each sequence in a padded batch; the padding does not count. A torch module
      also takes a `PackedSequence`.
    - `transient`: steps at the start in which the basis aligns and growth is not counted, 0 to T - 1;
      `10 + ceil(T / 10)` by default, at most half of T; 0 if `basis` is given, since that continues a run.
    - `interval`: steps between reorthonormalisations; `"auto"` chooses the longest interval that keeps the exponents
      accurate to about 1e-9 in float64, 1e-3 in float32.
    - `steps`: the number of steps to run, from the start of `inputs`; all by default.
    - `time_step`: the duration of one step, for exponents per unit of time.
    - `engine`: "jax" runs torch's own modules on the CPU in compiled JAX code, "torch" runs any model on any device;
      "auto" uses "jax" where possible.

    **Returns:** a [`Spectrum`][flossing.pytorch.Spectrum] on the device and of the dtype of the state. Where torch
    records gradients, it is differentiable once with respect to parameters, `state` and `inputs`. Where a Jacobian is
    singular, that exponent and the later ones are -inf with zero gradient. Surrogate gradients replace derivatives in
    the tangents, as they do in training.

    **Raises:** `ValueError`, in one line, for arguments out of range or inconsistent, NaN or infinite values, a model
    whose order of arguments is ambiguous, modules that do not map one state to the next, an orbit that does not stay
    finite. Warns (`UserWarning`) if all exponents are -inf: the step forgets its state.

    **Source:** Engelken (NeurIPS 2023) sections 2 and 3; Benettin, Galgani, Giorgilli & Strelcyn (1980).

        print(flt.lyapunov_spectrum(torch.nn.LSTM(3, 64), torch.randn(200, 3), k=8).exponents)
    """
    options = {"state": state, "step": step, "steps": steps, "batched": batched, "lengths": lengths, "engine": engine}
    system = read_system(model, inputs, **options)
    length = system.length
    transient = 0 if transient is None and basis is not None else transient
    common = own_transient(transient, length)
    check_transient(common, transient, length, system.lengths)
    transient = common if system.lengths is None else transient
    if interval != "auto":
        check_integer("interval", interval, least=1, note=" or 'auto'")
    check_positive("time_step", time_step)
    bases = initial_bases(system.size, system.like, batch=system.batch, k=k, generator=generator, basis=basis)
    system = system if basis is None else restrict(system, basis, common)
    if interval == "auto":
        flow, interval = _flow_at_longest_interval(system, bases, transient)
    else:
        flow = system.flow(bases, transient=transient, interval=interval)
        _check_interval(system, bases, flow, transient, interval)
    _check_flow(flow)
    flow = flow._replace(exponents=flow.exponents / time_step)
    counts = None
    if system.lengths is not None:
        ends = [min(n, length) for n in system.lengths]
        counts = torch.tensor([n - own_transient(transient, n) for n in ends], device=flow.exponents.device)
    of = {"steps": length - common, "interval": interval, "time_step": float(time_step), "steps_of_each": counts}
    return Spectrum(**flow._asdict(), **of)


def _flow_at_longest_interval(system: System, basis: Tensor, transient: int | None) -> tuple[Flow, int]:
    # The first steps choose the interval; the whole run may then show that it must be shorter.
    with torch.no_grad():
        first = system.start(min(system.length, PROBE_STEPS)).flow(basis, transient=0, interval=1)
    interval = power_of_two(longer_interval(1, spread_ratio(first.log_growth, None)[None], system.length))
    while True:
        flow = system.flow(basis, transient=transient, interval=interval)
        growth = torch.cat([flow.transient_log_growth, flow.log_growth], dim=-2).detach()
        shorter = shorter_interval(interval, spread_ratio(growth, None)[None])
        if shorter == interval:
            return flow, interval
        interval = power_of_two(shorter)


def _check_interval(system: System, basis: Tensor, flow: Flow, transient: int | None, interval: int):
    """Raise ValueError if the interval loses directions that an interval of 1 keeps; it then runs once more, at 1."""
    growth_now = flow.log_growth.detach().cpu().numpy()
    if interval == 1 or not loses_directions(growth_now).any():
        return
    with torch.no_grad():
        again = system.flow(basis, transient=transient, interval=1)
    growth = torch.cat([again.transient_log_growth, again.log_growth], dim=-2).cpu().numpy()
    message = interval_message(growth_now, growth, again.transient_log_growth.shape[-2], interval)
    if message is not None:
        raise ValueError(message)


def _check_flow(flow: Flow):
    growth = flow.log_growth.detach()
    if growth.isnan().any() or growth.isposinf().any():
        block = (growth.isnan() | growth.isposinf()).any(-1).nonzero()[0].tolist()
        where = f"sequence {block[0]}, block {block[1]}" if len(block) > 1 else f"block {block[0]}"
        raise ValueError(escape_message(f"in {where} after the transient"))
    check_tensors("the last state", flow.state)
    if flow.exponents.detach().isneginf().all():
        warn("all exponents are -inf: step forgets its state, its Jacobian is zero")
