"""Which room a configuration belongs to."""

from flossing.experiment import balance, reference
from flossing.experiment.config import AnyConfig
from flossing.experiment.contract import Room

ROOMS: dict[str, Room] = {"reference": reference, "balance": balance}


def room_of(config: AnyConfig) -> Room:
    """The experiment that `config` is a configuration of."""
    return ROOMS[config.experiment]
