"""The gates of a gated network along an orbit: what is written, kept and shown."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from flossing._equations import GATES, affine, gates
from flossing._runtime.compiled import compiled
from flossing._tangent.problem import Problem, set_up
from flossing._types import Input, State
from flossing.cells import GRU, LSTM, Network, TorchRNN
from flossing.cells._from_weights import FUNCTIONS

Gates = dict[str, Float[Array, "T ..."]]


def gate_values(model: Any, inputs: Input, *, state: State = None, steps: int | None = None) -> Gates:
    """The values of the gates of a GRU or an LSTM at each step along `inputs`, from 0, closed, to 1, open.

    **Arguments:** `model`, a [`cells.GRU`][] or [`cells.LSTM`][], a [`cells.Network`][] of one, Equinox's own cell, or
    trained weights from [`cells.from_weights`][]; `inputs`, `state`, `steps` as in [`lyapunov_spectrum`][].

    **Returns:** a dictionary of arrays (T, N), of the dtype of the state; (T, layers, N) for weights of
    `cells.from_weights`. GRU: `write`, the share 1 - z of the new content in the next state, and `reset`. LSTM: `write`
    (input gate), `keep` (forget gate), `show` (output gate). A network whose `write` is near 0 keeps its state and
    takes nothing in.

    **Raises:** `ValueError` as `lyapunov_spectrum` does, and for a model without such gates.

        gates = fl.gate_values(cell, inputs)
        print({name: float(values.mean()) for name, values in gates.items()})
    """
    cell = model.cell if isinstance(model, Network) else model
    cell = cell.cell if isinstance(cell, GRU | LSTM) else cell
    is_trained = isinstance(cell, TorchRNN) and cell.kind.name in GATES
    if type(cell) not in _GATES and not is_trained:
        known = "a GRU or an LSTM of flossing.cells, of Equinox or of cells.from_weights"
        raise ValueError(f"model must be {known}, got {type(model).__name__}, whose gates are not known")
    problem = set_up(model, inputs, state=state, steps=steps)
    states = compiled(_states, problem)()
    if not isinstance(cell, TorchRNN):
        return jax.vmap(lambda state, input: _GATES[type(cell)](cell, input, state))(states, problem.inputs)

    def of_step(state: State, input: Array) -> dict[str, Array]:
        weight, _, bias, _ = cell.layers[0]
        return gates(FUNCTIONS, cell.kind, cell.layers, state, cell(input, state), affine(weight, bias, input))

    return jax.vmap(of_step)(states, problem.inputs)


def _states(problem: Problem) -> State:
    """The states before each step."""
    return jax.vmap(problem.coordinates.join)(*problem.orbit()[0])


def _gru(cell: eqx.nn.GRUCell, input: Float[Array, " S"], h: Float[Array, " N"]) -> dict[str, Float[Array, " N"]]:
    driven, recurrent = _blocks(cell, input, h, 3)
    reset, z = jax.nn.sigmoid(driven[:2] + recurrent[:2])
    return {"write": 1 - z, "reset": reset}


def _lstm(cell: eqx.nn.LSTMCell, input: Float[Array, " S"], state: tuple) -> dict[str, Float[Array, " N"]]:
    driven, recurrent = _blocks(cell, input, state[0], 4)
    write, keep, _, show = jax.nn.sigmoid(driven + recurrent)
    return {"write": write, "keep": keep, "show": show}


def _blocks(cell: Any, input: Array, h: Array, count: int) -> tuple[Float[Array, "G N"], Float[Array, "G N"]]:
    bias = cell.bias if cell.use_bias else 0.0
    return (cell.weight_ih @ input + bias).reshape(count, -1), (cell.weight_hh @ h).reshape(count, -1)


_GATES: dict[type, Callable[..., dict[str, Array]]] = {eqx.nn.GRUCell: _gru, eqx.nn.LSTMCell: _lstm}
