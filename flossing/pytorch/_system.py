"""The system to measure: a recurrent module or a step, with its state and inputs, ready to run."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing._equations import advance
from flossing.pytorch._arguments import each_input, own_transient
from flossing.pytorch._modules import Recurrent
from flossing.pytorch._torch_engine import Flow, Method, Step, tangent_flow

Engine: TypeAlias = Literal["auto", "jax", "torch"]


@dataclass(frozen=True)
class StepSystem:
    """Any step, along one sequence or along each of `batch` sequences.

    Its state has `size` real coordinates, of the dtype and on the device of `like`.

    With a batch, `inputs` have a leading batch axis, and so have the leaves of `state` if `has_states`; `lengths` are
    those of padded sequences.
    """

    step: Step
    state: Any
    inputs: Any
    length: int
    size: int
    like: Tensor
    batch: int | None = None
    has_states: bool = False
    lengths: tuple[int, ...] | None = None
    subspace: Float[Tensor, "N m"] | None = None
    method: Method | None = None

    def start(self, window: int) -> "StepSystem":
        """The same over its first `window` steps."""
        cut = slice(window) if self.batch is None else (slice(None), slice(window))
        return replace(self, inputs=each_input(lambda s: s[cut], self.inputs), length=window)

    def flow(self, basis: Float[Tensor, "... N k"], *, transient: int | None, interval: int) -> Flow:
        """Run the tangent flow; `transient` is None for the default of each sequence."""
        if self.batch is None:
            options = {"length": self.length, "transient": transient, "interval": interval}
            options |= {"subspace": self.subspace, "method": self.method}
            return tangent_flow(self.step, self.state, self.inputs, basis, **options)
        common, flows = own_transient(transient, self.length), []
        for index in range(self.batch):
            one = self.sequence(index)
            own = own_transient(transient, one.length)
            flow = one.flow(basis if basis.ndim == 2 else basis[index], transient=own, interval=interval)
            flows.append(_padded(flow, -(-common // interval), -(-(self.length - common) // interval)))
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *flows)

    def input_at(self, t: int) -> Any:
        """The input of step `t` of a single sequence."""
        return each_input(lambda s: s[t], self.inputs)

    def inputs_between(self, start: int, stop: int) -> Any:
        """The inputs of the steps `start` to `stop - 1` of a single sequence."""
        return each_input(lambda s: s[start:stop], self.inputs)

    def sequence(self, index: int) -> "StepSystem":
        """The system along one sequence of the batch."""
        state = pytree.tree_map(lambda x: x[index], self.state) if self.has_states else self.state
        inputs = each_input(lambda x: x[index], self.inputs)
        one = replace(self, state=state, inputs=inputs, batch=None, has_states=False, lengths=None)
        return one if self.lengths is None else one.start(min(self.lengths[index], self.length))


def _padded(flow: Flow, before: int, after: int) -> Flow:
    """`flow` with zeros as the growth of the blocks that it lacks: before the transient, and after the end."""
    pad = torch.nn.functional.pad
    first, growth = flow.transient_log_growth, flow.log_growth
    return flow._replace(
        transient_log_growth=pad(first, (0, 0, before - len(first), 0)),
        log_growth=pad(growth, (0, 0, 0, after - len(growth))),
    )


@dataclass(frozen=True)
class ModuleSystem:
    """A recurrent module along `inputs` (T, S), or (B, T, S) from states with a leading axis B."""

    recurrent: Recurrent
    state: Any
    inputs: Float[Tensor, "... T S"]
    compiled: bool
    """Whether the JAX engine runs it."""
    lengths: tuple[int, ...] | None = None
    subspace: Float[Tensor, "N m"] | None = None

    @property
    def batch(self) -> int | None:
        """The number of sequences, None for a single one without a batch axis."""
        return self.inputs.shape[0] if self.inputs.ndim == 3 else None

    @property
    def length(self) -> int:
        """T."""
        return self.inputs.shape[-2]

    @property
    def size(self) -> int:
        """N, the real coordinates of the state of one sequence."""
        return sum(leaf.numel() for leaf in pytree.tree_leaves(self.recurrent.zeros()))

    @property
    def like(self) -> Tensor:
        """A tensor of the state's dtype, on its device."""
        return self.recurrent.like

    def start(self, window: int) -> "ModuleSystem":
        """The same over its first `window` steps."""
        return replace(self, inputs=self.inputs[..., :window, :])

    def flow(self, basis: Float[Tensor, "... N k"], *, transient: int | None, interval: int) -> Flow:
        """Run the tangent flow, as that of a step; the state has the module's own layout."""
        run = self._compiled_flow if self.is_compiled(basis) else self._torch_flow
        flow = run(basis, transient=transient, interval=interval)
        if self.batch is None:
            return flow
        return flow._replace(state=pytree.tree_map(lambda h: h.movedim(0, -2), flow.state))

    def is_compiled(self, basis: Float[Tensor, "... N k"]) -> bool:
        """Whether the JAX engine serves this basis."""
        return self.compiled and basis.ndim == 2 and self.subspace is None

    def _compiled_flow(self, basis: Tensor, *, transient: int | None, interval: int) -> Flow:
        from flossing.pytorch import _jax_engine  # JAX is imported here, when it is first needed

        return _jax_engine.flow(self, basis, transient=transient, interval=interval)

    def _torch_flow(self, basis: Tensor, *, transient: int | None, interval: int) -> Flow:
        return self.as_step().flow(basis, transient=transient, interval=interval)

    def as_step(self) -> StepSystem:
        """The same system, with the module as a step."""
        weight, _, bias, _ = self.recurrent.layers[0]
        drive = nn.functional.linear(self.inputs, weight, bias)
        step = partial(advance, torch, self.recurrent.kind, self.recurrent.layers)
        of = {"length": self.length, "size": self.size, "like": self.like, "batch": self.batch}
        of |= {"has_states": self.batch is not None, "lengths": self.lengths, "subspace": self.subspace}
        return StepSystem(step, self.state, drive, **of)


System: TypeAlias = StepSystem | ModuleSystem
