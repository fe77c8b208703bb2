"""Is the default loss of flossing harmless where a network learns without it? A protocol, fixed before its runs.

Permuted digits, and copy memory over sequences of 100 steps; tanh networks, GRU and LSTM of 64 units as their cells
draw them; without flossing, and with 500 epochs of the default loss for k = 48 before training. Every run on seeds 1 to
5 counts. On the digits flossing is harmless if the median accuracy falls by at most 1 point.
"""

import flossing as fl
from flossing_lab.comparison.architectures import TASKS
from flossing_lab.comparison.protocol import Arm, Kind, Protocol, Settings, TaskSetting
from flossing_lab.comparison.writing import CELLS, CLIP, EPOCHS

COPY = fl.tasks.CopyMemory(delay=80)

HARMLESS = Protocol(
    title="Harmless elsewhere",
    folder="harmless",
    tasks={
        "permuted": TASKS["permuted"],
        "copy": TaskSetting(
            lambda: COPY, "Copy memory, 10 symbols over a delay of 80, 100 steps", "loss", COPY.baseline_loss
        ),
    },
    networks={name: Kind(CELLS[name], 3 / 4) for name in ("tanh", "GRU", "LSTM")},
    arms={"without": Arm(), "with": Arm(EPOCHS, fl.losses.KeepAndWrite(), 3e-3, CLIP)},
    seeds=(1, 2, 3, 4, 5),
    settings=Settings(epochs=5000, clip=0.1, clip_together=True),
)
