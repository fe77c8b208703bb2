"""Training with a model, a loss and batches of your own, from a notebook or a script, into a run directory.

from flossing_lab import notebook

state = notebook.train(model, out="runs/mine", loss=loss, batch=batch, optimiser=optimiser, epochs=1000)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"training": ["train"]})
