"""What the last training step gave to a recurrent module, and the gradient that came back: recorded by hooks.

A layer of torch takes whole sequences, and hooks see the gradient that the loss puts on each of its outputs. A cell is
called once per step; its inputs and its first state are recorded, and that a gradient came back.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils import _pytree as pytree


@dataclass
class Record:
    """The sequences of a forward pass, and the gradients of its backward pass.

    `inputs` (B, T, ...), and `state`, whose leaves have B on `axis`; `lengths` (B,), those of padded sequences.
    `gradients`: what the loss put on the outputs of a layer, (B, T, H) or None, and on each leaf of its last state;
    None for a cell.
    """

    inputs: Any
    state: Any
    axis: int
    lengths: Tensor | None = None
    gradients: tuple[Tensor | None, dict[int, Tensor]] | None = None

    @property
    def batch(self) -> int:
        """B."""
        return pytree.tree_leaves(self.inputs)[0].shape[0]

    @property
    def shortest(self) -> int:
        """The length of the shortest sequence."""
        steps = pytree.tree_leaves(self.inputs)[0].shape[1]
        return steps if self.lengths is None else int(self.lengths.min())

    def starts(self, rows: list[int]) -> Any:
        """The first states of these sequences."""
        return pytree.tree_map(lambda h: h.index_select(self.axis, torch.tensor(rows, device=h.device)), self.state)


class Recorder:
    """The hook on a recurrent module. It records while `armed`, and changes nothing.

    A copied or pickled model keeps its hooks; the copy of a recorder is empty and not armed.
    """

    observes = True
    """Tells measurements that this hook computes no weights."""

    def __init__(self):
        self.armed, self.record = False, None

    def arm(self, armed: bool):
        """Start or stop recording; forget what was recorded."""
        self.armed, self.record = armed, None

    def __deepcopy__(self, memo: Any) -> "Recorder":
        copied = memo[id(self)] = type(self)()
        return copied

    def __reduce__(self) -> Any:
        return type(self), ()

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], returned: Any) -> None:
        """After a call of the module, `register_forward_hook(..., with_kwargs=True)`."""
        if self.armed and torch.is_grad_enabled():
            self.observe(module, [*args, *kwargs.values()], returned)

    def observe(self, module: Any, given: list[Any], returned: Any):
        """Record a call with these arguments."""
        raise NotImplementedError


class LayerRecorder(Recorder):
    """Records the calls of an `nn.RNN`, `nn.GRU` or `nn.LSTM`."""

    def observe(self, module: Any, given: list[Any], returned: Any):
        """Record a call; the record counts once a gradient arrives at what the layer returned."""
        inputs, state = given[0], given[1] if len(given) > 1 else None
        out, end = returned
        axis, to = 0 if module.batch_first else 1, {"dtype": module.weight_hh_l0.dtype}
        sequences, lengths = _batch_first(inputs, axis)
        state = pytree.tree_map(torch.zeros_like, end) if state is None else state
        state = pytree.tree_map(_with_batch, state)
        record = Record(sequences.detach().to(**to), _detached(state, to), 1, lengths, (None, {}))

        def arrives(gradient: Tensor, index: int | None):
            assert record.gradients is not None
            ends = record.gradients[1]
            if index is None:
                packed = out._replace(data=gradient) if isinstance(out, PackedSequence) else gradient
                record.gradients = _batch_first(packed, axis)[0].detach().to(**to), ends
            else:
                ends[index] = _with_batch(gradient.detach()).to(**to)
            self.record = record

        self._watch(out.data if isinstance(out, PackedSequence) else out, arrives, None)
        for index, leaf in enumerate(pytree.tree_leaves(end)):
            self._watch(leaf, arrives, index)

    @staticmethod
    def _watch(leaf: Tensor, arrives: Any, index: int | None):
        if leaf.requires_grad:
            leaf.register_hook(lambda gradient: arrives(gradient, index))


class CellRecorder(Recorder):
    """Records the calls of a cell, `cell(input, state) -> state`: one sequence since the model was last called."""

    def __init__(self):
        super().__init__()
        self._calls: list[Any] = []
        self._recorded: Any = None

    def arm(self, armed: bool):
        """Start or stop recording; forget what was recorded."""
        super().arm(armed)
        self._calls = []

    def begin(self, *_: Any) -> None:
        """Before a call of the model that holds the cell, `register_forward_pre_hook`."""
        self._calls = []

    def observe(self, module: Any, given: list[Any], returned: Any):
        """Record a step; a cell called without a state starts from zeros."""
        state = given[1] if len(given) > 1 else None
        if state is None:
            self._calls = []
            state = pytree.tree_map(torch.zeros_like, returned)
        calls = self._calls
        calls.append((given[0], state))

        def arrives(_: Tensor):
            if self.record is None or self._recorded is not calls:
                inputs, states = zip(*calls, strict=True)
                stacked = pytree.tree_map(lambda *steps: torch.stack(steps, 1).detach(), *inputs)
                self.record, self._recorded = Record(stacked, _detached(states[0], {}), 0), calls

        leaf = next((leaf for leaf in pytree.tree_leaves(returned) if leaf.requires_grad), None)
        if leaf is not None:
            leaf.register_hook(arrives)


def _batch_first(sequences: Any, axis: int) -> tuple[Tensor, Tensor | None]:
    """Sequences with the batch on `axis` as (B, T, ...), and their lengths."""
    if isinstance(sequences, PackedSequence):
        return pad_packed_sequence(sequences, batch_first=True)
    return (sequences[None] if sequences.ndim == 2 else sequences.movedim(axis, 0)), None


def _with_batch(h: Tensor) -> Tensor:
    """A state (L, B, H) of a layer, from (L, H) or itself."""
    return h if h.ndim == 3 else h.unsqueeze(1)


def _detached(tree: Any, to: dict[str, Any]) -> Any:
    return pytree.tree_map(lambda x: x.detach().to(**to) if x.is_floating_point() else x.detach(), tree)
