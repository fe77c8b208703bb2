"""The protocol of cells."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from flossing._types import State


@runtime_checkable
class Cell(Protocol):
    """The three methods that [`cells.Stacked`][] and [`cells.Network`][] need; any cell with them works."""

    def __call__(self, input: Any, state: Any, /) -> Any:
        """One step, whose tangents are measured: `cell(input, state) -> state`."""
        ...

    def zeros(self) -> State:
        """The zero state."""
        ...

    def output(self, state: Any, /) -> Float[Array, " N"]:
        """The output for a state, which a readout or the next layer receives."""
        ...
