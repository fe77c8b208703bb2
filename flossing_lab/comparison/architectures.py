"""Tasks and kinds of networks, each trained without and with the flossing of the paper: docs/comparison.md."""

import flossing as fl
from flossing_lab.comparison.protocol import Arm, Kind, Protocol, Settings, TaskSetting

TASKS = {
    "copy": TaskSetting(
        lambda: fl.tasks.CopyMemory(delay=30),
        "Copy memory, 10 symbols over a delay of 30",
        "loss",
        fl.tasks.CopyMemory(delay=30).baseline_loss,
    ),
    "adding": TaskSetting(lambda: fl.tasks.Adding(steps=60), "Adding, 60 steps", "loss", fl.tasks.Adding.baseline_loss),
    "xor": TaskSetting(
        lambda: fl.tasks.TemporalXOR(steps=100, delay=20), "Temporal XOR, lags 20 and 40", "accuracy", 0.5
    ),
    "digits": TaskSetting(lambda: fl.tasks.Digits(), "Digits, pixel by pixel", "accuracy", 0.1),
    "permuted": TaskSetting(lambda: fl.tasks.Digits(permuted=True), "Permuted digits, pixel by pixel", "accuracy", 0.1),
}


def _orthogonal(units: int, inputs: int, *, key):
    return fl.cells.VanillaRNN(units, inputs, key=key, recurrent="orthogonal")


ARCHITECTURES = Protocol(
    title="Tasks and kinds of networks",
    folder="",
    tasks=TASKS,
    networks={
        "vanilla": Kind(fl.cells.VanillaRNN, 3 / 4),
        "vanilla, orthogonal": Kind(_orthogonal, 3 / 4),
        "leaky": Kind(fl.cells.LeakyRNN, 3 / 4),
        "GRU": Kind(fl.cells.GRU, 1 / 4),
        "LSTM": Kind(fl.cells.LSTM, 1 / 4),
    },
    arms={"without": Arm(), "with": Arm(before=300, block=100, every=250, blocks=2)},
    seeds=(1, 2, 3, 4, 5),  # settings were tuned on other seeds, from 101 on
    settings=Settings(),
)
