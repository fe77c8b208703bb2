"""Train recurrent networks over long horizons by controlling their Lyapunov exponents.

`__init__.pyi` lists the public names. They resolve on first use, so importing this package, and thus `flossing --help`
or `flossing.pytorch`, does not import JAX.
"""

import importlib.metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = importlib.metadata.version("flossing")
