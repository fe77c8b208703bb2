"""Gated networks: the cells of Equinox, with a choice of initialisation."""

from typing import Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.cells._weights import recurrent_weights

Start: TypeAlias = Literal["uniform", "gaussian", "orthogonal"]
Gates: TypeAlias = Literal["drawn", "open", "chrono"]
OPEN = 3.0
"""The bias of an open gate; that of a closed one is its negative. sigmoid(3) = 0.95."""


class GRU(eqx.Module):
    """N gated recurrent units; the state and the output are h.

        h_{t+1} = (1 - z) n + z h_t,      n = tanh(W_n s_t + b_n + r (U_n h_t + c_n)),
        r = sigmoid(W_r s_t + U_r h_t + b_r),      z = sigmoid(W_z s_t + U_z h_t + b_z)

    Field: `cell`, an `equinox.nn.GRUCell`, whose `weight_hh` (3N, N) stacks U_r, U_z, U_n.

        cell = fl.cells.GRU(64, key=jax.random.key(0), recurrent="orthogonal", gates="open")
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    cell: eqx.nn.GRUCell

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        recurrent: Start = "uniform",
        gain: float = 1.0,
        input_scale: float | None = None,
        gates: Gates = "drawn",
        horizon: int | None = None,
    ):
        """Draw the weights as Equinox does, uniform within 1 / sqrt(N), in JAX's default floating dtype.

        - `recurrent`: draws each U uniform, Gaussian of variance 1 / N, or orthogonal; `gain` multiplies it.
        - `input_scale`: draws W_n as N(0,1) times this number instead.
        - `gates`: "open" sets the biases to 3 and -3, so that r is about 0.95 and z about 0.05: open to the input, and
          nearly a tanh network. "chrono" draws the bias of z as log U(1, horizon - 1), for time constants from 2 to
          `horizon` steps (Tallec & Ollivier 2018).

        Raises ValueError for a size below 1, an unknown `recurrent` or `gates`, or a `horizon` below 3 with "chrono".
        """
        _check(units, inputs, gates, horizon)
        cell = _drawn(eqx.nn.GRUCell(inputs, units, key=key), 2, recurrent, gain, input_scale, key)
        if gates == "open":
            cell = with_biases(cell, {0: OPEN, 1: -OPEN})
        elif gates == "chrono":
            cell = with_biases(cell, {1: _chrono_bias(key, units, horizon)})
        self.cell = cell

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

        cell = fl.cells.LSTM(64, key=jax.random.key(0), recurrent="orthogonal", gates="open")
        print(fl.lyapunov_spectrum(cell, inputs, k=8))
    """

    cell: eqx.nn.LSTMCell

    def __init__(
        self,
        units: int,
        inputs: int = 1,
        *,
        key: RandomKey,
        recurrent: Start = "uniform",
        gain: float = 1.0,
        input_scale: float | None = None,
        gates: Gates = "drawn",
        forget_bias: float = 1.0,
        horizon: int | None = None,
    ):
        """Draw the weights as Equinox does, uniform within 1 / sqrt(N), in JAX's default floating dtype.

        - `recurrent`, `gain`, `input_scale`: as in [`cells.GRU`][], the last for W_g.
        - `gates`: "drawn" adds `forget_bias` to the drawn bias of f, so that the cells start with some memory (Gers,
          Schmidhuber & Cummins 2000); 0 keeps Equinox's own. "open" sets the biases to 3 and -3, so that i and o are
          about 0.95 and f about 0.05: open to the input, and nearly a tanh network. "chrono" draws the bias of f as
          log U(1, horizon - 1) and sets that of i to its negative, for time constants from 2 to `horizon` steps (Tallec
          & Ollivier 2018).

        Raises ValueError for a size below 1, an unknown `recurrent` or `gates`, or a `horizon` below 3 with "chrono".
        """
        _check(units, inputs, gates, horizon)
        cell = _drawn(eqx.nn.LSTMCell(inputs, units, key=key), 2, recurrent, gain, input_scale, key)
        if gates == "open":
            self.cell = with_biases(cell, {0: OPEN, 1: -OPEN, 3: OPEN})
        elif gates == "chrono":
            bias = _chrono_bias(key, units, horizon)
            self.cell = with_biases(cell, {0: -bias, 1: bias})
        else:
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


def with_biases(cell, biases: dict[int, ArrayLike]):
    """`cell` with the biases of these gates, counted as the blocks of its weights; each a number or an array (N,)."""
    units, bias = cell.hidden_size, cell.bias
    for gate, value in biases.items():
        bias = bias.at[gate * units : (gate + 1) * units].set(value)
    return eqx.tree_at(lambda cell: cell.bias, cell, bias)


def _check(units: int, inputs: int, gates: str, horizon: int | None):
    check_integer("units", units, least=1)
    check_integer("inputs", inputs, least=1)
    if gates not in ("drawn", "open", "chrono"):
        raise ValueError(f"gates must be 'drawn', 'open' or 'chrono', got gates={gates!r}")
    if gates == "chrono":
        check_integer("horizon", horizon, least=3, note=" for gates='chrono'")


def _chrono_bias(key: RandomKey, units: int, horizon: int | None) -> Float[Array, " N"]:
    """log U(1, horizon - 1)."""
    assert horizon is not None
    return jnp.log(jr.uniform(jr.fold_in(key, 3), (units,), minval=1.0, maxval=horizon - 1.0))


def _drawn(cell, candidate: int, recurrent: str, gain: float, input_scale: float | None, key: RandomKey):
    """`cell` with recurrent blocks of this kind, and with the input weights of its `candidate` block of this scale."""
    weight_ih, weight_hh = cell.weight_ih, cell.weight_hh
    rows, units = weight_hh.shape
    if recurrent == "uniform":
        weight_hh = gain * weight_hh
    elif recurrent in ("gaussian", "orthogonal"):
        keys = jr.split(jr.fold_in(key, 1), rows // units)
        weight_hh = jnp.concatenate([recurrent_weights(k, units, recurrent, gain) for k in keys])
    else:
        raise ValueError(f"recurrent must be 'uniform', 'gaussian' or 'orthogonal', got recurrent={recurrent!r}")
    if input_scale is not None:
        block = slice(candidate * units, (candidate + 1) * units)
        drawn = input_scale * jr.normal(jr.fold_in(key, 2), (units, weight_ih.shape[1]))
        weight_ih = weight_ih.at[block].set(drawn)
    return eqx.tree_at(lambda cell: (cell.weight_ih, cell.weight_hh), cell, (weight_ih, weight_hh))
