"""A cell with a readout."""

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

    Calling it takes one step of its cell, so `floss` and `lyapunov_spectrum` accept it like the cell. `outputs` runs a
    sequence, for the loss of a task. Fields: `cell`, and `readout`, an `equinox.nn.Linear` with `weight` (O, N)
    and `bias` (O,).

        cell = fl.cells.VanillaRNN(64, key=jax.random.key(0))
        outputs = fl.cells.Network(cell, 1, key=jax.random.key(1)).outputs(inputs)  # (T, 1)
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
        """The readout (T, O) after each step along `inputs` (T, ...), from `state`, by default `zeros()`.

        In its gradient, spiking cells use their surrogate for tasks; see [`cells.with_task_surrogate`][].
        """
        cell = with_task_surrogate(self.cell)

        def body(state, input):
            state = cell(input, state)
            return state, cell.output(state)

        return jax.vmap(self.readout)(lax.scan(body, self.zeros() if state is None else state, inputs)[1])

    def closed_loop(self, state: State, input: Input = None) -> State:
        """One step that reads the network's own last output as its input; `input` is ignored.

        For a network that predicts its next input: after it has read a signal, this step continues the signal. The
        readout must have as many outputs as the cell has inputs. The exponents of the forecast:

            fl.lyapunov_spectrum(network.closed_loop, None, state=state, steps=10_000, k=3)
        """
        return self.cell(self.readout(self.cell.output(state)), state)

    def forecast(self, inputs: Input, steps: int, state: State = None) -> tuple[Float[Array, "T O"], State]:
        """Read `inputs` (T, S), then continue on its own: the next `steps` outputs (steps, O), and the last state.

        `state`: before the first input, by default `zeros()`. The first output is the prediction of the step after the
        last input. Raises ValueError if `steps` is below 1.
        """
        check_integer("steps", steps, least=1)
        state = self.zeros() if state is None else state
        state, _ = lax.scan(lambda state, input: (self.cell(input, state), None), state, inputs)

        def body(state, _):
            return self.closed_loop(state), self.readout(self.cell.output(state))

        state, outputs = lax.scan(body, state, None, length=steps)
        return outputs, state


def with_task_surrogate(model: Model) -> Model:
    """`model` with each cell that has a method `with_task_surrogate` replaced by the result of that method.

    A step keeps its values; its derivative becomes the one for the gradient of a task. Cells without that method do not
    change.

        model = fl.cells.with_task_surrogate(fl.cells.LIF(64, key=jax.random.key(0)))
        gradient = eqx.filter_grad(loss)(model)
    """

    def has_two(node: Any) -> bool:
        return callable(getattr(type(node), "with_task_surrogate", None))

    return jax.tree_util.tree_map(
        lambda node: node.with_task_surrogate() if has_two(node) else node, model, is_leaf=has_two
    )
