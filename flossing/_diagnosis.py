"""What was measured of a network, what it means for learning over a horizon, and what to do; needs no JAX."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FAINT = 1e-2
"""A gradient or a direction counts as lost once this share of it is left."""

READABLE = 0.2
"""The share of an input's variance from which on it counts as written and kept."""

FEW = 4
"""The most channels for which the size of the network is compared with the number of inputs. Those of an embedding are
not independent of one another."""

SHARE = 3 / 4
"""The largest share of the directions to floss."""

START = {
    "tanh": ("an orthogonal recurrent matrix and an input scale of 0.1",) * 2,
    "gru": (
        "open gates: flossing.cells.GRU(gates='open', recurrent='orthogonal', input_scale=0.1)",
        "open gates: flossing.pytorch.open_gates(module)",
    ),
    "lstm": (
        "open gates: flossing.cells.LSTM(gates='open', recurrent='orthogonal', input_scale=0.1)",
        "open gates: flossing.pytorch.open_gates(module)",
    ),
}
"""Starts that often learn without flossing, by the kind of cell: in JAX, and in torch."""

OPEN = 0.9
"""From this mean value of the gate that writes on, the gates count as open."""


def settings_for(size: int, channels: int, horizon: int, steps: int) -> tuple[int, int]:
    """The exponents to floss, and the window.

    k covers the inputs of the horizon, or one input with many channels, as those of an embedding: of such inputs a
    network rarely keeps all, and with a larger k the default loss keeps only the last few. The window is twice the
    horizon.
    """
    wanted = math.ceil(1.25 * horizon * channels) if channels <= FEW else channels
    k = max(1, min(int(SHARE * size), max(16, wanted)))
    return k, min(2 * horizon, steps)


def seconds_per_epoch(floss: Callable, model: Any, inputs: Any, **options: Any) -> float | None:
    """The time of a flossing epoch, without compilation; None where a direction is lost, so that there is none."""
    times = []
    timed = {"epochs": 20, "chunk": 10, "callback": lambda *_: times.append(time.perf_counter()), "report": False}
    try:
        floss(model, inputs, **timed, **options)
    except FloatingPointError:
        return None
    return (times[1] - times[0]) / 10


def count_of_sequences(size: int, horizon: int) -> int:
    """White sequences of 2 `horizon` + 20 steps for a memory function: ten samples per coordinate, at least 2000."""
    return max(20, math.ceil(max(2000, 10 * size) / (horizon + 20)))


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Diagnosis:
    """What a network can learn over a horizon; `print` it, or `plot` it.

    - `name`: the network's name; `size`: N; `channels`: S, the numbers in an input; `horizon`: the steps that memory
      should span.
    - `exponents` (k,): the first exponents along the inputs, per step, natural logarithm.
    - `log_gradient` (lags,): log |dL/dh| at each lag, relative to lag 0, for a random loss of the last state.
    - `memory` (horizon,): the share of the input a steps ago, a = 0, 1, ..., that a linear readout recovers, the mean
      over channels; None where it cannot be measured, as `memory_note` says. `capacity`: its sum over all lags, without
      bias, so that it may fall below 0.
    - `write`: the mean of the gate that writes, for a GRU or an LSTM; else None.
    - `k`, `window`: advised settings of flossing; `seconds`: the time of one flossing epoch with them, None if unknown.
    """

    name: str
    size: int
    channels: int
    horizon: int
    exponents: np.ndarray
    log_gradient: np.ndarray
    memory: np.ndarray | None
    memory_note: str
    capacity: float
    write: float | None
    k: int
    window: int
    kind: str = ""
    seconds: float | None = None
    in_torch: bool = False

    @property
    def depth(self) -> int:
        """The steps after which less than a hundredth of the gradient is left, or the longest lag measured."""
        lost = np.flatnonzero(self.log_gradient < math.log(FAINT))
        return int(lost[0]) if lost.size else len(self.log_gradient) - 1

    @property
    def alive(self) -> int:
        """The number of directions of which at least a hundredth is left over the horizon."""
        return int((self.exponents * self.horizon > math.log(FAINT)).sum())

    @property
    def readable(self) -> float | None:
        """The share of the input of `horizon` steps ago, a mean over the last lags; None if it is unknown."""
        return None if self.memory is None else float(self.memory[-max(1, self.horizon // 10) :].mean())

    @property
    def verdict(self) -> str:
        """One of "explodes", "vanishes", "unwritten", "unknown" (the memory cannot be measured), "ready"."""
        if self.exponents[0] * self.horizon > -math.log(FAINT):
            return "explodes"
        if self.depth < self.horizon:
            return "vanishes"
        if self.readable is None:
            return "unknown"
        return "ready" if self.readable >= READABLE else "unwritten"

    def advice(self) -> list[str]:
        """What to do, one sentence each."""
        floss = f"Floss: k={self.k}, window={self.window}, epochs=500{self._cost()}."
        start = "Or calibrate gain and input scale."
        if self.kind in START and (self.write is None or self.write < OPEN):
            start = f"Or start from {START[self.kind][self.in_torch]}."
        said = {
            "explodes": [f"Gradients explode over {self.horizon} steps; lower the gain, or floss.", floss, start],
            "vanishes": [f"Gradients vanish within {self.horizon} steps.", floss, start],
            "unwritten": [
                f"Gradients reach back, but hardly anything of the input of {self.horizon} steps ago can be read from "
                "the state.",
                "In a trained network this may be right: it forgets what its task does not need.",
                floss.replace(":", ", with the default loss:", 1),
                start,
            ],
            "unknown": ["Gradients reach back. What is written into the state is unknown."],
            "ready": [f"Nothing stands in the way over {self.horizon} steps: train."],
        }[self.verdict]
        if self.size < self.horizon * self.channels and self.channels <= FEW:
            numbers = self.horizon * self.channels
            said.append(f"At most {self.size} of {numbers} inputs can be read linearly: more units, if all are needed.")
        return said

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        first, last = self.exponents[0], self.exponents[min(self.k, len(self.exponents)) - 1]
        reach = (
            f"a hundredth is left after {self.depth} steps"
            if self.depth < len(self.log_gradient) - 1
            else (f"more than a hundredth is left after {self.depth} steps")
        )
        kept = (
            self.memory_note
            if self.readable is None
            else (
                f"{100 * max(self.readable, 0):.0f} % of the input of {self.horizon} steps ago is readable; "
                f"capacity {min(max(self.capacity, 0.0), self.size):.1f} of at most {self.size}"
            )
        )
        least = "at least " if self.alive == len(self.exponents) < self.size else ""  # all that were measured
        rows = {
            "network": f"{self.name}, {self.size} coordinates, {self.channels} inputs; horizon {self.horizon} steps",
            "gradients": reach,
            "directions": f"{least}{self.alive} of {self.size} keep a hundredth over {self.horizon} steps; exponents "
            f"{first:+.3f} to {last:+.3f} per step (the first {min(self.k, len(self.exponents))})",
            "inputs": kept,
        }
        if self.write is not None:
            rows["gates"] = f"the gate that writes is open to {self.write:.2f} on average"
        head = "\n".join(f"{name:<12}{text}" for name, text in rows.items())
        return head + "\n\n" + "\n".join(self.advice())

    def plot(self, figure: Any = None) -> Any:
        """Three panels: exponents, the gradient against the lag, the memory function; returns the figure."""
        if figure is None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(10, 3), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        count = len(self.exponents)
        left.axhspan(math.log(FAINT) / self.horizon, -math.log(FAINT) / self.horizon, color="0.93", lw=0)
        left.plot(range(1, count + 1), self.exponents, ".-", ms=3, lw=1.2)
        left.set(xlabel="index $i$", ylabel=r"$\lambda_i$ (per step)", title=f"directions alive: {self.alive}")
        middle.plot(self.log_gradient / math.log(10), lw=1.5)
        middle.axhline(math.log10(FAINT), color="0.75", lw=0.8, ls=":")
        middle.set(xlabel="lag (steps)", ylabel=r"$\log_{10} |\partial L / \partial h|$", title="gradient")
        if self.memory is not None:
            right.plot(self.memory, lw=1.5)
            right.set(ylim=(-0.05, 1.05))
        else:
            right.text(0.5, 0.5, "not measurable", ha="center", transform=right.transAxes)
        right.set(xlabel="lag (steps)", ylabel="share recovered", title="memory of inputs")
        for ax in (middle, right):
            ax.axvline(self.horizon, color="0.6", lw=0.8)
        for ax in (left, middle, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.title.set_fontsize(10)
        return figure

    def _cost(self) -> str:
        if self.seconds is None:
            return ""
        each = f"{1000 * self.seconds:.3g} ms" if self.seconds < 1 else f"{self.seconds:.3g} s"
        whole = 500 * self.seconds
        total = f"{whole:.0f} s" if whole < 120 else f"{whole / 60:.0f} min"
        return f", about {total} ({each} per epoch) and the time to compile"
