"""Runs from notebooks, as the commands see them: `report` and `collect` read them, and none can repeat them."""

from typing import Any, NoReturn

from flossing_lab.runs.figure import draw_run as draw

__all__ = ["build", "check", "draw", "draw_model", "measure", "measure_spectrum"]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        "run must be one whose network the command line can build, got a run of flossing_lab.notebook: its network and "
        "its task are code in the notebook; continue and measure it there"
    )


check = draw_model = build = measure = measure_spectrum = _refuse
