"""What every experiment is."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import optax
from jaxtyping import PyTree
from matplotlib.figure import Figure

from flossing._training.flossing import Flossing
from flossing._spectra.lyapunov import Spectrum
from flossing.schedules import Schedule
from flossing._training.train import FlossingTerm, Loss, Probe
from flossing._types import RandomKey
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.registry import EXPERIMENTS
from flossing_lab.runs.directory import RunDirectory


class Experiment(NamedTuple):
    """All that [`train`][] needs, made from a configuration, and what is looked at between two chunks of epochs.

    `renew(model) -> model` is called after every `renew_every` epochs. `test(model) -> {name: number}` is called every
    `test_every` epochs, before the first and after the last one, and changes nothing; None for never.
    `stop(metrics)` gets the training metrics of all epochs so far after each chunk, and says why training ends, or None
    if it goes on; None for never.
    `shown` are the numbers for whoever watches, each with its format: metrics of training, as means over a chunk, or
    results of the newest test.
    """

    model: PyTree
    batch: Callable[[RandomKey], PyTree]
    optimiser: optax.GradientTransformation
    flossing: Flossing | None
    schedule: Schedule | None
    key: RandomKey
    loss: Loss
    shown: Mapping[str, str]
    term: FlossingTerm | None = None
    probe: Probe | None = None
    probe_every: int = 0
    renew: Callable[[PyTree], PyTree] | None = None
    renew_every: int = 1000
    test: Callable[[PyTree], Mapping[str, Any]] | None = None
    test_every: int = 1000
    stop: Callable[[Mapping[str, np.ndarray]], str | None] | None = None


class Measurements(NamedTuple):
    """What is seen of a network at the start of a run, after preflossing and at the end.

    `notes` are for run.json; `horizons` (H,) and log singular values of the long-term Jacobian (H, N) are None where
    they are not measured.
    """

    notes: Mapping[str, Any]
    horizons: tuple[np.ndarray, np.ndarray] | None = None


@runtime_checkable
class ExperimentModule(Protocol):
    """What a run asks of the experiment it is of: the module `experiment` of its package."""

    def check(self, config: Any, *, here: bool = True) -> None:
        """Raise ValueError for what its configuration cannot know: a task without a step to score, and, if it is to
        run on this machine, too much memory."""
        ...

    def draw_model(self, config: Any) -> Any:
        """The model before training."""
        ...

    def build(self, config: Any, step_scale: float = 1.0) -> Experiment:
        """Draw the network and set up the experiment, its step sizes times `step_scale`."""
        ...

    def measure_spectrum(self, model: Any, config: Any, k: int | None = None) -> Spectrum:
        """The first `k` exponents of a network along inputs of its task, by default as many as a run keeps."""
        ...

    def measure(self, model: Any, config: Any) -> Measurements:
        """What is worth seeing of a network; rather slow."""
        ...

    def draw(self, run: RunDirectory) -> Figure:
        """The picture of a run."""
        ...


def experiment_module(config: RunConfig) -> ExperimentModule:
    """The experiment that `config` is a configuration of."""
    return importlib.import_module(f"{EXPERIMENTS[config.experiment]}.experiment")  # pyright: ignore[reportReturnType]
