"""torch's recurrent modules as maps of their state: weights, equations, and errors for modules that are not maps.

The equations are written once, with the few functions that torch and JAX share; `xp` is either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from flossing.pytorch._arguments import check_tensors

Layer: TypeAlias = tuple[Any, Any, Any, Any]
"""weight_ih, weight_hh, bias_ih, bias_hh of one layer, as torch names and stacks them; the biases may be None."""


class Kind(NamedTuple):
    """Which equations, and whether the state has a leading axis of layers; all that compiled code depends on."""

    name: str
    stacked: bool

    @property
    def gates(self) -> int:
        """The number of gates, the blocks of rows in the weights."""
        return {"gru": 3, "lstm": 4}.get(self.name, 1)


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
    # By attribute, not from `parameters()`: a parametrised weight is computed on access.
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


def affine(weight: Any, bias: Any, x: Any) -> Any:
    """W x + b, or W x."""
    return weight @ x if bias is None else weight @ x + bias


def advance(xp: Any, kind: Kind, layers: tuple[Layer, ...], state: Any, drive: Any) -> Any:
    """One step of the state (L, H), or of a pair of these; `drive` (gates H,) is W_ih s + b_ih of the first layer."""
    memory = state if kind.name == "lstm" else (state,)
    new = []
    for index, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(layers):
        old = [m[index] for m in memory] if kind.stacked else memory
        if index:
            drive = affine(weight_ih, bias_ih, new[-1][0])
        new.append(_EQUATIONS[kind.name](xp, drive, affine(weight_hh, bias_hh, old[0]), *old))
    joined = tuple(xp.stack(m) if kind.stacked else m[0] for m in zip(*new, strict=True))
    return joined if kind.name == "lstm" else joined[0]


def _tanh(xp: Any, s: Any, u: Any, h: Any) -> tuple:
    return (xp.tanh(s + u),)


def _relu(xp: Any, s: Any, u: Any, h: Any) -> tuple:
    return (xp.relu(s + u),)


def _gru(xp: Any, s: Any, u: Any, h: Any) -> tuple:
    (s_r, s_z, s_n), (u_r, u_z, u_n) = xp.chunk(s, 3), xp.chunk(u, 3)
    r, z = xp.sigmoid(s_r + u_r), xp.sigmoid(s_z + u_z)
    n = xp.tanh(s_n + r * u_n)
    return (n + z * (h - n),)


def _lstm(xp: Any, s: Any, u: Any, h: Any, c: Any) -> tuple:
    i, f, g, o = xp.chunk(s + u, 4)
    c = xp.sigmoid(f) * c + xp.sigmoid(i) * xp.tanh(g)
    return xp.sigmoid(o) * xp.tanh(c), c


_EQUATIONS: dict[str, Callable[..., tuple]] = {"tanh": _tanh, "relu": _relu, "gru": _gru, "lstm": _lstm}
