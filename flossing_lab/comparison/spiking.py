"""Spiking and binary networks, trained after surrogate flossing. Two protocols, fixed before their runs.

Engelken has flossed spiking networks through a surrogate derivative, and has flossed networks adaptively, in work after
the paper (2024); his protocol is not known to us, so this one is ours. The task is the XOR of the inputs of d and 2d
steps ago, d the longest lag that one network of 64 units learned in pilots with seed 101, of those tried: 3 of 1, 2, 3
and 5 for leaky integrate-and-fire neurons (flossed), 6 of 1, 2, 3, 5, 6, 7 and 8 for binary units (not flossed).
Neurons have a membrane of 2 steps, a synapse of 1 step and an input scale of 5, surrogates for the task a sharpness of
3 (neurons) and 1 (binary): no other sharpness that was tried learned a longer lag. Arms: none; preflossing with the
exponents alone, the loss of the paper; with the default loss; and adaptive with the default loss, a block of 50 epochs
after every 100 in which less than a thousandth of the gradient of the task reaches back. The arm without flossing
trains for 3400 epochs more, which cost as much as preflossing with the default loss. Ten seeds, k = 48.
"""

import dataclasses
from functools import partial

import flossing as fl
from flossing_lab.comparison.protocol import Arm, Kind, TaskSetting
from flossing_lab.comparison.writing import CLIP, EPOCHS, WRITING

EXTRA = 3400
OURS = fl.losses.KeepAndWrite()


def _xor(delay: int) -> dict[str, TaskSetting]:
    make = partial(fl.tasks.TemporalXOR, steps=100, delay=delay)
    return {"xor": TaskSetting(make, f"Temporal XOR, lags {delay} and {2 * delay}", "accuracy", 0.95)}


SPIKING = dataclasses.replace(
    WRITING,
    title="Spiking networks",
    folder="spiking",
    tasks=_xor(3),
    networks={
        "spiking": Kind(partial(fl.cells.LIF, input_scale=5.0, tau_mem=2.0, tau_syn=1.0, gain=1.0, beta=3.0), 3 / 4)
    },
    arms={
        "none": Arm(epochs=6000 + EXTRA),
        "exponents": Arm(EPOCHS, fl.losses.exponents, 1e-3, CLIP),
        "default": Arm(EPOCHS, OURS, 3e-3, CLIP),
        "adaptive": Arm(EPOCHS, OURS, 3e-3, CLIP, block=50, every=100, threshold=1e-3),
    },
    settings=dataclasses.replace(WRITING.settings, epochs=6000),
)

BINARY = dataclasses.replace(
    SPIKING,
    title="Binary networks",
    folder="binary",
    tasks=_xor(6),
    networks={"binary": Kind(partial(fl.cells.BinaryRNN, beta=1.0), 3 / 4)},
)
