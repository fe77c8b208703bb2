"""Networks as PyTorch draws them, from its default initialisation. A protocol, fixed before its runs.

The task, sizes, settings and seeds are those of "Keeping and writing", the arms no flossing and the default loss.
PyTorch draws all weights and biases of `nn.RNN` and `nn.LSTM` uniformly within 1 / sqrt(N); its LSTM has no forget bias
of its own. Its GRU differs from Equinox's, which that table has, by a second bias alone.
"""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax

import flossing as fl
from flossing_lab.comparison.protocol import Kind
from flossing_lab.comparison.writing import WRITING


def tanh(units: int, inputs: int, *, key: Any) -> fl.cells.VanillaRNN:
    """A tanh network with the weights of `nn.RNN`: its two biases add up."""
    cell, bound = fl.cells.VanillaRNN(units, inputs, key=key), units**-0.5
    shapes = (cell.J.shape, cell.ws.shape, cell.b.shape, cell.b.shape)
    keys = jax.random.split(key, len(shapes))
    J, ws, *biases = (
        jax.random.uniform(key, shape, minval=-bound, maxval=bound) for key, shape in zip(keys, shapes, strict=True)
    )
    return eqx.tree_at(lambda cell: (cell.J, cell.ws, cell.b), cell, (J, ws, sum(biases)))


AS_TORCH = dataclasses.replace(
    WRITING,
    title="As PyTorch draws them",
    folder="as_torch",
    networks={
        "tanh, as nn.RNN": Kind(tanh, 3 / 4),
        "LSTM, forget bias 0": Kind(partial(fl.cells.LSTM, forget_bias=0.0), 3 / 4),
    },
    arms={name: WRITING.arms[name] for name in ("none", "both")},
)
