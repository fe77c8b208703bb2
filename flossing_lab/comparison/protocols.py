"""The protocols by name."""

from flossing_lab.comparison.as_torch import AS_TORCH
from flossing_lab.comparison.draws import BEST, DRAWS
from flossing_lab.comparison.protocol import Protocol
from flossing_lab.comparison.spiking import BINARY, SPIKING
from flossing_lab.comparison.writing import WRITING

PROTOCOLS: dict[str, Protocol] = {
    "writing": WRITING,
    "draws": DRAWS,
    "best": BEST,
    "as_torch": AS_TORCH,
    "spiking": SPIKING,
    "binary": BINARY,
}
