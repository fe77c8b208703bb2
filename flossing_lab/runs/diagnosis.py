"""Prints and plots the diagnosis of a saved run, of a freshly drawn network, or of weights in a file."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import flossing as fl
from flossing._arguments import check_integer
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import experiment_module
from flossing_lab.runs.plotting import check_plot, save_figure
from flossing_lab.runs.run import configure_dtype, drawn, load_model
from flossing_lab.runs.spectrum import check_channels, load_cell, read_inputs

TRIALS = 8
"""The number of sequences of the task along which a network is diagnosed."""


def diagnose_run(config: RunConfig, source: Path | None, horizon: int | None, plot: Path):
    """Diagnose the final network of the run in `source`, or a network drawn from `config`."""
    check_plot(plot)
    config = config if source is None else RunDirectory(source).config
    configure_dtype(config.dtype)
    module: Any = experiment_module(config)
    model = drawn(config) if source is None else load_model(RunDirectory(source))
    driven_system = getattr(module, "driven_system", None)
    if driven_system is None:
        raise ValueError(f"run must be one of the experiments reference and own, got one of {config.experiment!r}")
    horizon = module.longest_lag(config) if horizon is None else horizon
    if horizon is None:
        raise ValueError("horizon must be given, the longest lag in steps: the task has no attribute longest_lag")
    _announce(config.name, horizon)
    _show(fl.diagnose(**driven_system(model, config, trials=TRIALS), horizon=horizon), plot)


def diagnose_weights(file: Path, inputs: Path, *, kind: str | None, name: str | None, horizon: int, plot: Path):
    """Diagnose a trained network from a file of weights."""
    check_plot(plot)
    jax.config.update("jax_enable_x64", True)  # arrays keep the dtype of their file
    cell, sequence = load_cell(file, kind, name), read_inputs(inputs)
    if sequence.ndim != 2:
        raise ValueError(f"inputs must be a single sequence (T, S), got shape {sequence.shape} in {inputs}")
    _announce(file.name, horizon)
    check_channels(cell, sequence, inputs)
    found = fl.diagnose(cell, jnp.asarray(sequence, cell.layers[0][1].dtype), horizon=horizon)
    _show(dataclasses.replace(found, in_torch=True), plot)  # the weights are torch's, and so is the advice


def _announce(name: str, horizon: int):
    check_integer("horizon", horizon, least=1)
    print(f"{name}: measuring exponents, gradients and memory over {horizon} steps", file=sys.stderr, flush=True)


def _show(diagnosis: fl.Diagnosis, plot: Path):
    print(diagnosis)
    plot.parent.mkdir(parents=True, exist_ok=True)
    save_figure(diagnosis.plot(), plot)
    print(f"\nplot      {plot}")
