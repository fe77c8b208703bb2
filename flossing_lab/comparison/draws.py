"""Networks with Dale's law, tuned without flossing and with it, at equal cost. A protocol, fixed before its runs.

The task and the sizes are those of "Keeping and writing". Gain, input scale and step size of training are drawn 24
times, log-uniformly in [0.5, 2] and [0.03, 3], and among 3e-4, 1e-3 and 3e-3; both arms get the same 24 draws, in both
kinds of networks. One arm flosses for 500 epochs with the default loss; the other trains for 1000 epochs more, which
cost as much: 3.7 s for 500 epochs of flossing, 3.3 ms for one of training.

First DRAWS, on the validation seeds 101 to 103. The best draw of an arm solves the task with the most of these seeds,
then in the fewest epochs, then with the highest accuracy. Then BEST: the chosen draws on seeds 1 to 10. Flossing is
better if it solves more of these ten networks, each arm with its own best draw, with p < 0.05 in Fisher's exact test.
"""

import dataclasses
import statistics
from functools import partial
from typing import Any

import numpy as np

import flossing as fl
from flossing_lab.comparison.protocol import Arm, Kind, Protocol
from flossing_lab.comparison.solved import Run, is_solved
from flossing_lab.comparison.writing import CELLS, CLIP, EPOCHS, WRITING

KINDS = ("Dale tanh", "Dale ReLU")
EXTRA = 1000
"""The epochs of training that cost as much as flossing does."""


def drawn(count: int = 24) -> list[dict[str, float]]:
    """The draws, always the same."""
    rng = np.random.default_rng(33)
    gains, scales = 2.0 ** rng.uniform(-1, 1, count), 0.03 * 100.0 ** rng.uniform(0, 1, count)
    rates = rng.choice([3e-4, 1e-3, 3e-3], count)
    return [
        {"gain": float(f"{gain:.3g}"), "input_scale": float(f"{scale:.3g}"), "rate": float(rate)}
        for gain, scale, rate in zip(gains, scales, rates, strict=True)
    ]


def kind(name: str, gain: float, input_scale: float, rate: float) -> Kind:
    """A kind of network with the values of a draw."""
    return Kind(partial(CELLS[name], gain=gain, input_scale=input_scale), 3 / 4, rate)


def best(network: str, arm: str, runs: list[Run]) -> int:
    """The number of the best draw of an arm, from the runs on the validation seeds, by the rule above."""
    task = WRITING.tasks["xor"]

    def rank(draw: int) -> tuple[Any, ...]:
        found = [r for r in runs if r["network"] == f"{network}, draw {draw}" and r["condition"] == arm]
        solved = sum(is_solved(run, task) for run in found)
        epochs, accuracy = (statistics.mean(run[name] for run in found) for name in ("epochs", "accuracy"))
        return -solved, epochs, -accuracy

    return min(range(1, len(drawn()) + 1), key=rank)


DRAWS = dataclasses.replace(
    WRITING,
    title="Dale networks, 24 draws",
    folder="draws",
    networks={f"{name}, draw {i}": kind(name, **draw) for name in KINDS for i, draw in enumerate(drawn(), 1)},
    arms={
        "none": Arm(epochs=WRITING.settings.epochs + EXTRA),
        "flossing": Arm(EPOCHS, fl.losses.KeepAndWrite(), 3e-3, CLIP),
    },
    seeds=(101, 102, 103),
)

CHOSEN: dict[tuple[str, str], int] = {("Dale tanh", "none"): 19, ("Dale tanh", "flossing"): 21}
"""The best draw of each kind of network and arm, as `best` finds it in the results of DRAWS."""

BEST: Protocol = dataclasses.replace(
    DRAWS,
    title="Dale networks, the best draws",
    folder="best",
    networks={f"{name}, best with {arm}": kind(name, **drawn()[i - 1]) for (name, arm), i in CHOSEN.items()},
    seeds=WRITING.seeds,
)
