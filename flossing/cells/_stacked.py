"""Layers of cells."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from flossing.cells._contract import Cell


class Stacked(eqx.Module):
    """Several cells, each driven by the output of the previous one in the same step.

    The state is the tuple of their states, the output that of the last cell. The Jacobian of a step is block
    triangular: the exponents are those of all layers together, each driven by its inputs. Field: `cells`, a tuple.

        keys = jax.random.split(jax.random.key(0))
        cell = fl.cells.Stacked([fl.cells.GRU(32, key=keys[0]), fl.cells.GRU(32, 32, key=keys[1])])
    """

    cells: tuple[Cell, ...]

    def __init__(self, cells: tuple[Cell, ...] | list[Cell]):
        """`cells`, from the input upwards; raises ValueError if there are none."""
        if not cells:
            raise ValueError(f"cells must hold at least one cell, got cells={cells!r}")
        self.cells = tuple(cells)

    def __call__(self, input: Any, state: tuple) -> tuple:
        """One step of all layers."""
        states = []
        for cell, old in zip(self.cells, state, strict=True):
            states.append(cell(input, old))
            input = cell.output(states[-1])
        return tuple(states)

    def zeros(self) -> tuple:
        """The zero state of each layer."""
        return tuple(cell.zeros() for cell in self.cells)

    def output(self, state: tuple) -> Float[Array, " N"]:
        """The output of the last layer."""
        return self.cells[-1].output(state[-1])
