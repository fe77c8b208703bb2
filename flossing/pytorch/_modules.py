"""torch's recurrent modules as maps of their state: their weights, and errors for modules that are not maps."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flossing._equations import Kind, Layer
from flossing.pytorch._arguments import check_tensors
from flossing.pytorch._surroundings import evaluating


class Recurrent(NamedTuple):
    """A recurrent module: its equations, its weights, and which axis of (T, B, S) or (B, T, S) is the batch."""

    kind: Kind
    layers: tuple[Layer, ...]
    batch_axis: int

    @property
    def units(self) -> int:
        """H, the units of a layer."""
        return self.layers[0][1].shape[1]

    @property
    def channels(self) -> int:
        """S, the input channels."""
        return self.layers[0][0].shape[1]

    @property
    def like(self) -> Tensor:
        """A tensor of the module's dtype, on its device."""
        return self.layers[0][1]

    def zeros(self, *batch: int) -> Any:
        """The zero state: h, or (h, c)."""
        shape = ((len(self.layers),) if self.kind.stacked else ()) + batch + (self.units,)
        h = torch.zeros(shape, dtype=self.like.dtype, device=self.like.device)
        return (h, h) if self.kind.name == "lstm" else h


_KINDS = {nn.RNN: "", nn.GRU: "gru", nn.LSTM: "lstm", nn.RNNCell: "", nn.GRUCell: "gru", nn.LSTMCell: "lstm"}


def unwrapped(model: Any) -> Any:
    """The module inside what `torch.compile`, `DataParallel` or `DistributedDataParallel` made of it."""
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            break
        model = inner
    return model


def is_recurrent(module: Any) -> bool:
    """Whether this is a recurrent module of torch, or a subclass of one."""
    return isinstance(module, tuple(_KINDS))


def recurrent_names(model: nn.Module) -> list[str]:
    """The names of the recurrent modules inside a model."""
    return [name for name, module in model.named_modules() if name and is_recurrent(module)]


def read_module(module: Any) -> Recurrent | None:
    """The current weights of a recurrent torch module; None for anything else."""
    base = next((base for base in _KINDS if isinstance(module, base)), None)
    if base is None:
        return None
    if type(module).forward is not base.forward:
        raise ValueError(
            f"module must keep the forward of nn.{base.__name__}, got {type(module).__name__} with its own: "
            "pass a function step(state, input) that calls it"
        )
    cell = isinstance(module, nn.RNNCellBase)
    if not cell:
        _check_layers(module)
    name = _KINDS[base] or module.nonlinearity
    ends = [""] if cell else [f"_l{layer}" for layer in range(module.num_layers)]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    # By attribute, not from `parameters()`: a parametrised weight is computed on access, and spectral normalisation
    # then takes a step of its iteration in training mode.
    with evaluating(module):
        named = [{part + end: getattr(module, part + end, None) for part in names} for end in ends]
    for weights in named:
        check_tensors("module", {key: tensor for key, tensor in weights.items() if tensor is not None})
    layers = tuple((w_ih, w_hh, b_ih, b_hh) for w_ih, w_hh, b_ih, b_hh in (weights.values() for weights in named))
    return Recurrent(Kind(name, not cell), layers, 0 if getattr(module, "batch_first", False) else 1)


def _check_layers(module: nn.RNNBase):
    if module.bidirectional:
        raise ValueError(
            "module must run forward in time, got bidirectional=True: its state at a step depends on later inputs, "
            "so that there is no map from one state to the next"
        )
    if module.proj_size:
        raise ValueError(f"module must have proj_size=0, got proj_size={module.proj_size}")
    if module.training and module.dropout and module.num_layers > 1:
        raise ValueError(
            f"module must not drop out units at random, got dropout={module.dropout} in training mode: "
            "call module.eval() first, or set dropout=0"
        )


def find_recurrent(root: nn.Module, recurrent: Any) -> nn.Module:
    """The recurrent module of a model; ValueError if the choice is not clear."""
    if isinstance(recurrent, str):
        modules = dict(root.named_modules(remove_duplicate=False))
        if recurrent not in modules:
            legal = ", ".join(name for name in modules if name)
            raise ValueError(f"recurrent must name a module of the model ({legal}), got {recurrent!r}")
        found = unwrapped(modules[recurrent])
    elif recurrent is None:
        names = recurrent_names(root) if isinstance(root, nn.Module) else []
        if not is_recurrent(root) and len(names) != 1:
            got = f"several: {', '.join(names)}" if names else f"none in {type(root).__name__}"
            raise ValueError(f"recurrent must be given for a model without exactly one recurrent module, got {got}")
        found = root if is_recurrent(root) else root.get_submodule(names[0])
    else:
        found = unwrapped(recurrent)
        if not isinstance(found, nn.Module) or all(found is not module for module in root.modules()):
            raise ValueError(f"recurrent must be a module of the model or its name, got {recurrent!r}")
    with evaluating(found):
        read_module(found)  # for its errors
    return found
