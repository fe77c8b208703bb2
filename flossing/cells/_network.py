"""A cell and what is read from it."""

from typing import Any, TypeVar

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import Input, RandomKey, State
from flossing.cells._contract import Cell

Model = TypeVar("Model")


class Network(eqx.Module):
    """Any cell with a linear readout of its output.

    Called, it makes the step of its cell: `floss` and `lyapunov_spectrum` take it as they take the cell. `outputs`
    runs a sequence, for the loss of a task. Fields: `cell`, and `readout`, an `equinox.nn.Linear` with `weight` (O, N)
    and `bias` (O,).
    """

    cell: Cell
    readout: eqx.nn.Linear

    def __init__(self, cell: Cell, outputs: int = 1, *, key: RandomKey):
        """Draw the readout as Equinox does, uniform within 1 / sqrt(N); raises ValueError if `outputs` is below 1."""
        check_integer("outputs", outputs, least=1)
        self.cell = cell
        size = jax.eval_shape(lambda: cell.output(cell.zeros())).size
        self.readout = eqx.nn.Linear(size, outputs, key=key)

    def __call__(self, input: Input, state: State) -> State:
        """One step of the cell."""
        return self.cell(input, state)

    def zeros(self) -> State:
        """The zero state of the cell."""
        return self.cell.zeros()

    def outputs(self, inputs: Input, state: State = None) -> Float[Array, "T O"]:
        """What is read after each step along `inputs` (T, ...) from `state`, by default `zeros()`; (T, O).

        Spiking cells have their sharpness for tasks in its gradient; see [`cells.with_task_surrogate`][].
        """
        cell = with_task_surrogate(self.cell)

        def body(state, input):
            state = cell(input, state)
            return state, cell.output(state)

        return jax.vmap(self.readout)(lax.scan(body, self.zeros() if state is None else state, inputs)[1])


def with_task_surrogate(model: Model) -> Model:
    """`model` with every cell in it that has a method `with_task_surrogate` replaced by what that returns.

    The values of a step stay the same; its derivative becomes the one that the gradient of a task shall use. Cells
    without that method stay as they are.
    """

    def has_two(node: Any) -> bool:
        return callable(getattr(type(node), "with_task_surrogate", None))

    return jax.tree_util.tree_map(
        lambda node: node.with_task_surrogate() if has_two(node) else node, model, is_leaf=has_two
    )
