"""Sequences of what a recurrent module was given last, in the layout in which flossing takes them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing.pytorch._recorder import Record


class Draw:
    """Some of the recorded sequences, drawn anew for each flossing epoch, in the layout that `floss` expects."""

    def __init__(self, module: nn.Module, record: Record, window: int, count: int, draws: torch.Generator):
        self._record, self._window, self._count, self._draws = record, window, count, draws
        self._is_cell_of_torch = isinstance(module, nn.RNNCellBase)
        self._is_layer = isinstance(module, nn.RNNBase)
        self._batch_first = getattr(module, "batch_first", False)
        self.batched = None if self._is_layer or self._is_cell_of_torch else count > 1
        self._rows: list[int] = []

    def inputs(self) -> Any:
        """New sequences."""
        self._rows = torch.randperm(self._record.batch, generator=self._draws)[: self._count].tolist()
        return pytree.tree_map(self._inputs_of, self._record.inputs)

    def _inputs_of(self, sequences: Tensor) -> Tensor:
        drawn = sequences[self._rows, : self._window]
        if self.batched is not None:  # each row keeps a batch axis of one, as the cell was written for
            return drawn.unsqueeze(2) if self.batched else drawn.transpose(0, 1)
        if self._count == 1:
            return drawn[0]
        return drawn if self._batch_first else drawn.transpose(0, 1)

    def state(self) -> Any:
        """The first states of the same sequences."""
        starts = self._record.starts(self._rows)
        if self.batched is not None:
            return pytree.tree_map(lambda h: h.unsqueeze(1), starts) if self.batched else starts
        return pytree.tree_map(lambda h: h.squeeze(self._record.axis), starts) if self._count == 1 else starts
