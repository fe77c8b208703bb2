"""The interface that every experiment implements."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import optax
from jaxtyping import PyTree
from matplotlib.figure import Figure

from flossing._spectra.lyapunov import Spectrum
from flossing._term import FlossingTerm
from flossing._training.epoch import Flossing
from flossing._training.train import Loss, Probe
from flossing._types import RandomKey
from flossing.schedules import Schedule
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.registry import PACKAGES


class Experiment(NamedTuple):
    """Everything [`train`][] needs, built from a configuration, and the functions to call between chunks of epochs.

    `renew(model) -> model` is called every `renew_every` epochs. `test(model) -> {name: number}` is called every
    `test_every` epochs, before the first and after the last one, and does not affect training; None for no tests.
    `stop(metrics)` receives the training metrics of all epochs so far after each chunk. It returns the reason to stop
    training, or None to continue; None for no early stopping.
    `shown` names the numbers in the progress display, each with its format: training metrics, as means over a chunk, or
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
    """Measurements of a network at the start of a run, after preflossing and at the end.

    `notes` go to run.json. `horizons` holds the horizons (H,) and the log singular values of the long-term Jacobian
    (H, N); None if they are not measured.
    """

    notes: Mapping[str, Any]
    horizons: tuple[np.ndarray, np.ndarray] | None = None


class Builder(Protocol):
    """What a run needs from its experiment."""

    def build(self, config: Any, step_scale: float = 1.0) -> Experiment:
        """Draw the network and set up the experiment, its learning rates times `step_scale`."""
        ...

    def measure_spectrum(self, model: Any, config: Any, k: int | None = None) -> Spectrum:
        """The first `k` exponents of a network along inputs of its task; by default as many as a run stores. Raises
        ValueError if they cannot be measured."""
        ...

    def measure(self, model: Any, config: Any) -> Measurements:
        """Measure a network for the record of its run; rather slow."""
        ...

    def draw(self, run: RunDirectory) -> Figure:
        """The plot of a run."""
        ...


@runtime_checkable
class ExperimentModule(Builder, Protocol):
    """The module `experiment` of an experiment's package."""

    def check(self, config: Any, *, here: bool = True) -> None:
        """Raise ValueError for errors that the configuration cannot detect: a task without a step to score, or, if the
        run is `here` on this machine, too little memory."""
        ...

    def draw_model(self, config: Any) -> Any:
        """The model before training."""
        ...

    def state_size(self, config: Any) -> int:
        """N, the number of coordinates of the state."""
        ...


def experiment_module(config: RunConfig) -> ExperimentModule:
    """The module of the experiment that `config` belongs to."""
    return importlib.import_module(f"{PACKAGES[config.experiment]}.experiment")  # pyright: ignore[reportReturnType]
