"""The figures, one module each. A new file here is a new figure: modules are discovered, not listed."""

import importlib
import pkgutil
from collections.abc import Iterator

from flossing_lab.paper.contract import FigureModule


def find_figures() -> dict[str, FigureModule]:
    """All figures by name: first those of the paper, then those beyond it."""
    return dict(sorted(_modules(), key=lambda named: (not named[1].IN_PAPER, named[0])))


def _modules() -> Iterator[tuple[str, FigureModule]]:
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        assert isinstance(module, FigureModule)
        assert found.name == module.NAME
        yield found.name, module
