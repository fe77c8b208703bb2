"""Recurrent cells as Equinox modules, for one sequence at a time; use `jax.vmap` for batches.

The protocol of a cell, [`cells.Cell`][], in short:

- `cell(input, state) -> state`: the step whose exponents are measured. `input` has shape (S,), except for
  [`cells.BalancedRNN`][], whose input is a pair of signals and noise, and [`cells.DaleRNN`][], which also accepts one;
- `cell.zeros() -> state`: the zero state, an array or a tuple of arrays, in the dtype of the parameters;
- `cell.output(state) -> (N,)`: the output, which a readout or the next layer receives.
"""

from flossing.cells._balanced import BalancedRNN as BalancedRNN
from flossing.cells._contract import Cell as Cell
from flossing.cells._dale import DaleRNN as DaleRNN
from flossing.cells._from_weights import TorchRNN as TorchRNN, from_weights as from_weights
from flossing.cells._gated import GRU as GRU, LSTM as LSTM
from flossing.cells._leaky import LeakyRNN as LeakyRNN
from flossing.cells._linear import LRU as LRU
from flossing.cells._network import Network as Network, with_task_surrogate as with_task_surrogate
from flossing.cells._spiking import LIF as LIF, BinaryRNN as BinaryRNN
from flossing.cells._stacked import Stacked as Stacked
from flossing.cells._surrogate import spike as spike
from flossing.cells._vanilla import VanillaRNN as VanillaRNN
