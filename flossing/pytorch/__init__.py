"""Lyapunov exponents and gradient flossing of recurrent networks written in PyTorch.

    from flossing import pytorch as flt

    exponents = flt.lyapunov_spectrum(module, inputs, k=16).exponents
    history = flt.floss(module, inputs, k=16)

`module` is an `nn.RNN`, `nn.GRU`, `nn.LSTM`, one of their cells, your own cell called as `cell(input, state)`, or a
function `step(state, input) -> state`. Importing this package does not import JAX; on the CPU, torch's own modules
run on the JAX engine, which is imported on first use.
"""

from flossing._term import FlossingTerm as FlossingTerm
from flossing.pytorch import losses as losses
from flossing.pytorch._diagnose import diagnose as diagnose
from flossing.pytorch._floss import (
    FlossingHistory as FlossingHistory,
    FlossingRecord as FlossingRecord,
    FlossingState as FlossingState,
    floss as floss,
)
from flossing.pytorch._flosser import Flosser as Flosser
from flossing.pytorch._gates import gate_values as gate_values, open_gates as open_gates
from flossing.pytorch._input_side import (
    Reachability as Reachability,
    memory_function as memory_function,
    reachability as reachability,
)
from flossing.pytorch._lyapunov import Spectrum as Spectrum, lyapunov_spectrum as lyapunov_spectrum
from flossing.pytorch._measures import (
    backpropagated_norms as backpropagated_norms,
    covariant_vectors as covariant_vectors,
    long_term_jacobian as long_term_jacobian,
)
from flossing.pytorch.losses import flossing_loss as flossing_loss
