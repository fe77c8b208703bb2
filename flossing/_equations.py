"""The equations of torch's recurrent layers, for arrays of either library; imports neither.

They are written once, with the few functions that torch and JAX share; `xp` is either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

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


GATES = {"gru": ("reset", "write"), "lstm": ("write", "keep", None, "show")}
"""The blocks of the weights, in torch's order; None for a block that is not a gate."""


def gates(xp: Any, kind: Kind, layers: tuple[Layer, ...], before: Any, after: Any, drive: Any) -> dict[str, Any]:
    """The gates of one step from the state `before` to `after`, (L, H) each, for a cell (H,); `drive` as in `advance`.

    `write` is the share of new content in the next state.
    """
    if kind.name == "lstm":
        before, after = before[0], after[0]
    blocks = []
    for index, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(layers):
        if index:
            drive = affine(weight_ih, bias_ih, after[index - 1])
        old = before[index] if kind.stacked else before
        blocks.append(xp.chunk(xp.sigmoid(drive + affine(weight_hh, bias_hh, old)), kind.gates))
    values = [xp.stack(block) if kind.stacked else block[0] for block in zip(*blocks, strict=True)]
    found = {name: value for name, value in zip(GATES[kind.name], values, strict=False) if name is not None}
    return found | ({"write": 1 - found["write"]} if kind.name == "gru" else {})


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
