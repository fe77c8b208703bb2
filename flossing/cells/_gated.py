"""Gated networks: the cells of Equinox, with a choice of initialisation."""

from typing import Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.cells._weights import orthogonal

Start: TypeAlias = Literal["uniform", "orthogonal"]


class GRU(eqx.Module):
    """N gated recurrent units; the state and the output are h.

        h_{t+1} = (1 - z) n + z h_t,      n = tanh(W_n s_t + b_n + r (U_n h_t + c_n)),
        r = sigmoid(W_r s_t + U_r h_t + b_r),      z = sigmoid(W_z s_t + U_z h_t + b_z)

    Field: `cell`, an `equinox.nn.GRUCell`, whose `weight_hh` (3N, N) stacks U_r, U_z, U_n.
    """

    cell: eqx.nn.GRUCell

    def __init__(self, units: int, inputs: int = 1, *, key: RandomKey, recurrent: Start = "uniform"):
        """Draw the weights as Equinox does, uniform within 1 / sqrt(N); with "orthogonal", each U is orthogonal.

        Raises ValueError for a size below 1 or an unknown `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        self.cell = _recurrent_blocks(eqx.nn.GRUCell(inputs, units, key=key), recurrent, key)

    def __call__(self, input: Float[Array, " S"], state: Float[Array, " N"]) -> Float[Array, " N"]:
        """One step of h."""
        return self.cell(input, state)

    def zeros(self) -> Float[Array, " N"]:
        """The zero state."""
        return jnp.zeros(self.cell.hidden_size, self.cell.weight_hh.dtype)

    def output(self, state: Float[Array, " N"]) -> Float[Array, " N"]:
        """h itself."""
        return state


LSTMState: TypeAlias = tuple[Float[Array, " N"], Float[Array, " N"]]


class LSTM(eqx.Module):
    """N long short-term memory units; the state is (h, c), 2N real coordinates, and the output is h.

        c_{t+1} = f c_t + i g,      h_{t+1} = o tanh(c_{t+1}),
        i, f, o = sigmoid(W s_t + U h_t + b),      g = tanh(W_g s_t + U_g h_t + b_g)      (each gate its own W, U, b)

    Field: `cell`, an `equinox.nn.LSTMCell`, whose `weight_hh` (4N, N) stacks the U of i, f, g, o.
    """

    cell: eqx.nn.LSTMCell

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        recurrent: Start = "uniform",
        forget_bias: float = 1.0,
    ):
        """Draw the weights as Equinox does, uniform within 1 / sqrt(N); with "orthogonal", each U is orthogonal.

        `forget_bias` is added to the bias of f, so that the cells start with some memory (Gers, Schmidhuber & Cummins
        2000); 0 keeps Equinox's own. Raises ValueError for a size below 1 or an unknown `recurrent`.
        """
        check_integer("units", units, least=1)
        check_integer("inputs", inputs, least=1)
        cell = _recurrent_blocks(eqx.nn.LSTMCell(inputs, units, key=key), recurrent, key)
        forget = slice(units, 2 * units)
        self.cell = eqx.tree_at(lambda cell: cell.bias, cell, replace_fn=lambda b: b.at[forget].add(forget_bias))

    def __call__(self, input: Float[Array, " S"], state: LSTMState) -> LSTMState:
        """One step of (h, c)."""
        return self.cell(input, state)

    def zeros(self) -> LSTMState:
        """The zero state."""
        zero = jnp.zeros(self.cell.hidden_size, self.cell.weight_hh.dtype)
        return zero, zero

    def output(self, state: LSTMState) -> Float[Array, " N"]:
        """h."""
        return state[0]


def _recurrent_blocks(cell, recurrent: str, key: RandomKey):
    if recurrent == "uniform":
        return cell
    if recurrent != "orthogonal":
        raise ValueError(f"recurrent must be 'uniform' or 'orthogonal', got recurrent={recurrent!r}")
    rows, units = cell.weight_hh.shape
    blocks = [orthogonal(k, units) for k in jr.split(jr.fold_in(key, 1), rows // units)]
    return eqx.tree_at(lambda cell: cell.weight_hh, cell, jnp.concatenate(blocks))
