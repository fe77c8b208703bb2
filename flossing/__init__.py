"""Train recurrent networks over long horizons by controlling their Lyapunov exponents.

The names are listed in `__init__.pyi`, once, and resolve when first used: importing this package, and thus
`flossing --help` or `flossing.pytorch`, does not import JAX.
"""

import importlib.metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = importlib.metadata.version("flossing")
