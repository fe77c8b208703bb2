"""What the last training step gave to a recurrent module, and the gradient that came back: recorded by hooks.

A layer of torch takes whole sequences, and hooks see the gradient that the loss puts on each of its outputs. A cell is
called once per step; its hook records the inputs, the first state, and whether a gradient came back.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
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
    def longest(self) -> int:
        """The length of the longest sequence."""
        steps = pytree.tree_leaves(self.inputs)[0].shape[1]
        return steps if self.lengths is None else int(self.lengths.max())

    def of_at_least(self, steps: int) -> "Record":
        """The record of the sequences that have this many steps."""
        if self.lengths is None or int(self.lengths.min()) >= steps:
            return self
        rows = (self.lengths >= steps).nonzero()[:, 0].tolist()
        outputs, ends = self.gradients or (None, {})
        return Record(
            pytree.tree_map(lambda x: x[rows], self.inputs),
            self.starts(rows),
            self.axis,
            self.lengths[rows],
            (None if outputs is None else outputs[rows], {i: end[:, rows] for i, end in ends.items()}),
        )

    def starts(self, rows: list[int]) -> Any:
        """The first states of these sequences."""
        return pytree.tree_map(lambda h: h.index_select(self.axis, torch.tensor(rows, device=h.device)), self.state)


class Recorder(ABC):
    """The hook on a recurrent module. It records while `armed`, and changes nothing.

    A copied or pickled model keeps its hooks; the copy of a recorder is empty and not armed. Hooks on tensors must not
    hold what the module returned: Python cannot free such a cycle.
    """

    observes = True
    """Tells measurements that this hook computes no weights."""

    def __init__(self):
        self.armed, self._record, self._latest = False, None, None
        _leave_graphs()

    def arm(self, armed: bool):
        """Start or stop recording; forget what was recorded."""
        self.armed, self._record, self._latest = armed, None, None

    def take(self) -> Record | None:
        """What was recorded last; None if no gradient has arrived."""
        return self._record

    @abstractmethod
    def latest(self) -> Record | None:
        """The last forward pass, whether or not a gradient has arrived; None if there was none."""

    def __deepcopy__(self, memo: Any) -> "Recorder":
        copied = memo[id(self)] = type(self)()
        return copied

    def __reduce__(self) -> Any:
        return type(self), ()

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], returned: Any) -> None:
        """After a call of the module, `register_forward_hook(..., with_kwargs=True)`."""
        if self.armed and torch.is_grad_enabled():
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            self.observe(module, list(given.values()), returned)

    @abstractmethod
    def observe(self, module: Any, given: list[Any], returned: Any):
        """Record a call with these arguments, in the order of the module's own."""


@functools.cache
def _leave_graphs():
    """Keep recorders out of the graphs of `torch.compile`; not on import, since torch then loads its compiler, which
    takes a second."""
    Recorder.__call__ = torch.compiler.disable(Recorder.__call__)  # pyright: ignore[reportAttributeAccessIssue]


class LayerRecorder(Recorder):
    """Records the calls of an `nn.RNN`, `nn.GRU` or `nn.LSTM`."""

    def latest(self) -> Record | None:
        """The last call."""
        return self._latest

    def observe(self, module: Any, given: list[Any], returned: Any):
        """Record a call; the record counts once a gradient arrives at what the layer returned."""
        inputs, state = given[0], given[1] if len(given) > 1 else None
        out, end = returned
        axis, to = 0 if module.batch_first else 1, {"dtype": module.weight_hh_l0.dtype}
        sequences, lengths = _batch_first(inputs, axis)
        state = pytree.tree_map(torch.zeros_like, end) if state is None else state
        state = pytree.tree_map(_with_batch, state)
        record = self._latest = Record(sequences.detach().to(**to), _detached(state, to), 1, lengths, (None, {}))
        is_packed = isinstance(out, PackedSequence)
        data, packing = (out.data, out._replace(data=out.data.detach()[:0])) if is_packed else (out, None)

        def arrives(gradient: Tensor | None, index: int | None):
            if gradient is None or record.gradients is None:  # a full backward hook gives None for unused results
                return
            ends = record.gradients[1]
            if index is None:
                sequences = gradient if packing is None else packing._replace(data=gradient)
                record.gradients = _batch_first(sequences, axis)[0].detach().to(**to), ends
            else:
                ends[index] = _with_batch(gradient.detach()).to(**to)
            self._record = record

        _watch(data, lambda gradient: arrives(gradient, None))
        for index, leaf in enumerate(pytree.tree_leaves(end)):
            _watch(leaf, lambda gradient, index=index: arrives(gradient, index))


class CellRecorder(Recorder):
    """Records the calls of a cell, `cell(input, state) -> state`, as sequences.

    A sequence begins where the model that holds the cell is called, where the state has no gradient, unlike one that a
    step returned, and where shapes change. So if an initial state is learned, and the model is not called as a whole,
    successive sequences are taken for one.
    """

    def __init__(self):
        super().__init__()
        self._calls: list[Any] = []
        self._reached: list[Any] | None = None

    def arm(self, armed: bool):
        """Start or stop recording; forget what was recorded."""
        super().arm(armed)
        self._calls, self._reached = [], None

    def begin(self, *_: Any) -> None:
        """Before a call of the model that holds the cell, `register_forward_pre_hook`."""
        self._calls = []

    def take(self) -> Record | None:
        """The sequence that a gradient has reached last."""
        return _sequence(self._reached) if self._reached else None

    def latest(self) -> Record | None:
        """The last sequence, as far as the cell has been called."""
        return _sequence(self._calls) if self._calls else None

    def observe(self, module: Any, given: list[Any], returned: Any):
        """Record a step; a cell called without a state starts from zeros."""
        state = given[1] if len(given) > 1 else None
        state = pytree.tree_map(torch.zeros_like, returned) if state is None else state
        floating = [p.dtype for p in module.parameters() if p.is_floating_point()]
        call = _detached(given[0], {"dtype": floating[0]}), _detached(state, {"dtype": floating[0]})
        continues = any(getattr(leaf, "grad_fn", None) is not None for leaf in pytree.tree_leaves(state))
        if not continues or (self._calls and _shapes(self._calls[-1]) != _shapes(call)):
            self._calls = []
        calls = self._calls
        calls.append(call)

        def arrives(gradient: Tensor | None):
            if gradient is not None:
                self._reached = calls

        for leaf in pytree.tree_leaves(returned):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                _watch(leaf, arrives)
                break


def _sequence(calls: list[Any]) -> Record:
    """The calls of a cell, one after the other, as sequences."""
    inputs, states = zip(*calls, strict=True)
    return Record(pytree.tree_map(lambda *steps: torch.stack(steps, 1), *inputs), states[0], 0)


def _watch(leaf: Tensor, arrives: Callable[[Tensor | None], None]):
    if leaf.requires_grad:
        leaf.register_hook(arrives)


def _shapes(tree: Any) -> list[Any]:
    return [getattr(leaf, "shape", None) for leaf in pytree.tree_leaves(tree)]


def _batch_first(sequences: Any, axis: int) -> tuple[Tensor, Tensor | None]:
    """Sequences with the batch on `axis` as (B, T, ...), and their lengths."""
    if isinstance(sequences, PackedSequence):
        return pad_packed_sequence(sequences, batch_first=True)
    return (sequences[None] if sequences.ndim == 2 else sequences.movedim(axis, 0)), None


def _with_batch(h: Tensor) -> Tensor:
    """A state (L, B, H) of a layer, from (L, H) or itself."""
    return h if h.ndim == 3 else h.unsqueeze(1)


def _detached(tree: Any, to: dict[str, Any]) -> Any:
    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return torch.as_tensor(x) if isinstance(x, (bool, int, float)) else x
        return x.detach().to(**to) if x.is_floating_point() else x.detach()

    return pytree.tree_map(one, tree)
