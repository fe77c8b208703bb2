"""Trains like `flossing.train`, and writes the run to a directory."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PyTree
from pydantic import ValidationError
from rich.console import Console

from flossing import Flossing
from flossing._schedule import Schedule, as_schedule, guaranteed_epochs
from flossing._term import FlossingTerm
from flossing._training.train import Loss, Probe, TrainingState, init_training, measure_exponents
from flossing._types import RandomKey
from flossing_lab.notebook.code import fingerprint
from flossing_lab.notebook.config import NotebookConfig
from flossing_lab.runs.checkpoint import newest_checkpoint
from flossing_lab.runs.config import Condition, explain_invalid
from flossing_lab.runs.console import Display
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import Experiment, Measurements
from flossing_lab.runs.figure import draw_run
from flossing_lab.runs.recorder import over_sequences
from flossing_lab.runs.run import carry_out

SHOWN = {"loss": ".4g", "accuracy": ".3f"}
"""Metrics that the progress shows where they exist."""


def train(
    model: PyTree,
    *,
    out: Path | str,
    loss: Loss,
    batch: Callable[[RandomKey], PyTree],
    optimiser: optax.GradientTransformation,
    epochs: int,
    key: RandomKey | None = None,
    flossing: Flossing | None = None,
    schedule: Schedule | Callable[[int, Mapping[str, Any]], int] | None = None,
    term: FlossingTerm | None = None,
    probe: Probe | None = None,
    probe_every: int = 100,
    chunk: int = 100,
    title: str = "training",
    settings: Mapping[str, bool | int | float | str | None] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainingState:
    """Train a model up to epoch `epochs`, write the run to the directory `out`, and return its last state.

    `flossing report`, `flossing collect` and `flossing_lab.report.write_report` read the directory. A later call with
    the same `out` continues from its newest checkpoint, bit for bit as if training had never stopped, up to a larger
    `epochs` as well; a run that has finished is returned as it is.

    **Arguments:** `model` is the model before training, any PyTree; the arguments from `loss` to `chunk` are
    those of [`flossing.train`][].

    - `out`: the run directory.
    - `title`: the task in words.
    - `settings`: whatever distinguishes this run from others, `{"delay": 20, "cell": "gru", "seed": 1}`. A report
      groups runs by them, and by whether they floss; seeds, names that begin with `seed`, are the runs of a group.
      The recorded exponents are those of `flossing`; to record them in a run without flossing, pass `flossing` but no
      `schedule`.
    - `overwrite`: replaces a run that `out` already holds.
    - `progress`: shows epochs, loss, accuracy if the loss returns one, exponents, and the time left.

    **Raises:** `ValueError` if `out` holds a run with other settings, or other files, or for arguments out of range;
    a warning if model, loss, batch, optimiser, flossing or schedule are no longer those the run was made with, as far
    as their code and their numbers tell;
    `FloatingPointError` if training diverges, after the last good state has been stored; `OSError` if the disk is full.

        state = notebook.train(model, out="runs/1", loss=loss, batch=batch, optimiser=optax.adam(1e-3), epochs=1000)
        model = state.model
    """
    schedule = as_schedule(schedule, chunk)
    key = jax.random.key(0) if key is None else key
    config = _describe(model, flossing, schedule, epochs, chunk, title, dict(settings or {}))
    metrics = eqx.filter_eval_shape(lambda m, k: loss(m, batch(k))[1], model, key)
    shown = {name: form for name, form in SHOWN.items() if name == "loss" or name in metrics}
    experiment = Experiment(model, batch, optimiser, flossing, schedule, key, loss, shown, term, probe, probe_every)
    module = _Built(experiment)
    made_of = fingerprint(model, loss, batch, optimiser, flossing, schedule, term, probe)
    if not overwrite:
        _warn_of_other_code(RunDirectory(out), made_of)
    directory = RunDirectory(out)
    with Display(Console()) if progress else contextlib.nullcontext() as display:
        if display is not None:
            display.start(title)
        on_progress = display.update if display is not None else lambda status: None
        options = {"overwrite": overwrite, "lengthen": True, "on_progress": on_progress, "made_of": {"code": made_of}}
        carry_out(config, module, out, **options)
    return _last_state(directory, experiment)


def _warn_of_other_code(directory: RunDirectory, made_of: str):
    if directory.exists and directory.info.get("code", made_of) != made_of:
        warnings.warn(
            f"out should hold a run of the same code, got {str(directory.path)!r}, whose model, loss, batch, "
            "optimiser or flossing was another: overwrite=True replaces it",
            stacklevel=3,
        )


class _Built:
    """What a run needs from an experiment that is already built."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment

    def build(self, config: NotebookConfig, step_scale: float = 1.0) -> Experiment:
        return self.experiment

    def measure(self, model: PyTree, config: NotebookConfig) -> Measurements:
        flossing = self.experiment.flossing
        if flossing is None:
            return Measurements({})
        exponents = measure_exponents(flossing, model, self.experiment.key)
        return Measurements({"spectra": over_sequences(np.asarray(exponents))})

    def measure_spectrum(self, model: PyTree, config: NotebookConfig, k: int | None = None) -> NoReturn:
        raise ValueError("the inputs that drive the network are known only to its flossing")

    draw = staticmethod(draw_run)


def _describe(
    model: PyTree,
    flossing: Flossing | None,
    schedule: Schedule,
    epochs: int,
    chunk: int,
    title: str,
    settings: dict[str, Any],
) -> NotebookConfig:
    parameters = jax.tree_util.tree_leaves(eqx.filter(model, eqx.is_inexact_array))
    units, k = (None, None) if flossing is None else flossing.basis.shape
    seeds = {name: settings.pop(name) for name in list(settings) if name.startswith("seed")}
    try:
        return NotebookConfig.model_validate(
            {
                "network": {"units": units, "k": k},
                "task": {"task": title},
                "training": {"epochs": epochs, "chunk": chunk},
                "flossing": {"condition": "none" if flossing is None else _condition(schedule)},
                "seeds": seeds,
                "settings": settings,
                "dtype": str(parameters[0].dtype) if parameters else "float32",
            }
        )
    except ValidationError as error:
        raise ValueError(explain_invalid(error)) from None


def _condition(schedule: Schedule) -> Condition:
    """When a schedule flosses, whatever the length of training; a rule counts as adaptive."""
    before, later = guaranteed_epochs(schedule, 0, 1), schedule.next_query(1)
    if later is None:
        return "before" if before else "none"
    if guaranteed_epochs(schedule, 1, later):
        return "before_and_during" if before else "during"
    return "adaptive"


def _last_state(directory: RunDirectory, experiment: Experiment) -> TrainingState:
    first = init_training(experiment.model, experiment.optimiser, experiment.flossing)
    found = newest_checkpoint(directory.path / "checkpoints", first)
    if found is None:
        raise ValueError(f"out must hold a checkpoint of this model, got {str(directory.path)!r}")
    return found.state
