"""What every cell is."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from flossing._types import State


@runtime_checkable
class Cell(Protocol):
    """The three methods by which [`cells.Stacked`][] and [`cells.Network`][] know a cell; yours may have them too."""

    def __call__(self, input: Any, state: Any, /) -> Any:
        """One step, of which the tangent is measured: `cell(input, state) -> state`."""
        ...

    def zeros(self) -> State:
        """The zero state."""
        ...

    def output(self, state: Any, /) -> Float[Array, " N"]:
        """What a readout, or the next layer, sees of a state."""
        ...
