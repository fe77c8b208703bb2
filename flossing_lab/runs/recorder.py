"""The recorder writes the files of a run: metrics, parameters, snapshots, measurements, and run.json."""

from typing import Any

import numpy as np

from flossing._training.train import Chunk, TrainingState
from flossing_lab.runs.checkpoint import Checkpoint, parameters_of
from flossing_lab.runs.compilation import compile_seconds
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import Builder, Experiment
from flossing_lab.runs.plotting import save_figure
from flossing_lab.runs.provenance import provenance


class Recorder:
    """Writes one run. `info` is the content of run.json, `trained` the training metrics of all epochs so far."""

    def __init__(self, config: RunConfig, module: Builder, directory: RunDirectory, resumed: TrainingState | None):
        """`module` measures and draws; `resumed` is the state that an earlier session left, None for a new run."""
        self.config, self.module, self.directory = config, module, directory
        self.trained: dict[str, np.ndarray] = {}
        self.tested: dict[str, Any] = {}
        self.paces: dict[str, list[float]] = {}
        self.is_new = resumed is None
        if resumed is None:
            self.info: dict[str, Any] = {"status": "running", "config": {}, **provenance(), "spectra": {}}
        else:
            self.info = directory.info
            now = {"epoch": resumed.epoch, "flossing_epoch": resumed.flossing_epoch, **provenance()}
            self.info["resumed"] = [*self.info.get("resumed", []), now]
            for name in ("error", "exponents_before_error"):
                self.info.pop(name, None)
        self.info |= {"status": "running", "config": config.model_dump()}
        self.compiled = compile_seconds() - self.info.get("compile_seconds", 0.0)

    def open(self, state: TrainingState):
        """Remove everything after `state`."""
        self.directory.truncate_after(state.epoch, state.flossing_epoch)
        self.trained = self.directory.metrics("training")
        self.directory.write_info(self.info)

    def begin(self, experiment: Experiment, state: TrainingState):
        """Record the initial network if the run is new."""
        if self.is_new:
            self.test(experiment, state)
            self.measure("start", state.model)
            if self.config.safety.snapshots_every:
                self.directory.write_snapshot(0, 0, parameters_of(state.model))

    def remember(self, done: Chunk):
        """Add a chunk to `trained`, the metrics that decide whether a run stops early."""
        if done.kind == "training":
            new = {"epoch": np.asarray(done.epochs)} | done.metrics
            before = self.trained or {name: values[:0] for name, values in new.items()}
            self.trained = {name: np.concatenate([before[name], values]) for name, values in new.items()}

    def chunk(self, experiment: Experiment, done: Chunk, seconds: float, *, is_last: bool):
        """Record a chunk of epochs; after the last one, also the final snapshot and test."""
        directory, state, count = self.directory, done.state, len(done.epochs)
        self.paces.setdefault(done.kind, []).append(seconds / count)
        counts = {"epoch": np.asarray(done.epochs)}
        if done.kind == "flossing":
            counts["training_epoch"] = np.full(count, state.epoch)
        metrics = counts | done.metrics | _measured(state)
        if "exponents" in metrics:
            metrics["exponents"] = over_sequences(metrics["exponents"], among=2)
        directory.write_metrics(done.kind, done.epochs[0], metrics)
        parameters = parameters_of(state.model)
        directory.write_parameters(parameters)

        is_training, every = done.kind == "training", self.config.safety.snapshots_every
        block_ends = done.kind == "flossing" and state.pending == 0
        if every and (block_ends or is_last or (is_training and crosses(every, state.epoch, count))):
            directory.write_snapshot(state.epoch, state.flossing_epoch, parameters)
        if block_ends and state.epoch == 0:
            self.measure("after_preflossing", state.model)
        if is_training and (is_last or state.epoch % experiment.test_every == 0):
            self.test(experiment, state)

    def measure(self, stage: str, model: Any):
        """Measure a network at a stage of the run, for run.json and horizons.npz."""
        found = self.module.measure(model, self.config)
        for name, note in found.notes.items():
            self.info.setdefault(name, {})[stage] = note
        if found.horizons is not None:
            horizons, logs = found.horizons
            self.directory.write_horizons(self.directory.horizons | {"horizon": horizons, stage: logs})
        self.directory.write_info(self.info)

    def test(self, experiment: Experiment, state: TrainingState):
        """Test the network, if the experiment has tests."""
        if experiment.test is not None:
            self.tested = dict(experiment.test(state.model))
            row = {"epoch": state.epoch, **self.tested}
            rows = {name: np.asarray(value)[None] for name, value in row.items()}
            self.directory.write_metrics("test", state.epoch, rows)

    def halving(self, last: Checkpoint, error: Exception):
        """Record that the learning rate is halved, and why."""
        rate = self.config.training.learning_rate * 0.5**last.halvings
        note = {"epoch": last.state.epoch, "reason": str(error), "learning_rate": rate}
        self.info["halvings"] = [*self.info.get("halvings", [])[: last.halvings - 1], note]
        self.directory.write_info(self.info)

    def describe_last(self, state: TrainingState) -> str:
        """Describe the last good state and its spectrum, which often shows why training diverged."""
        where = f"the state after training epoch {state.epoch} is kept"
        try:
            exponents = np.asarray(self.module.measure_spectrum(state.model, self.config).exponents)
        except ValueError:
            return where
        self.info["exponents_before_error"] = exponents
        return f"{where}, its exponents run from λ1 {exponents[0]:+.3g} to λ{len(exponents)} {exponents[-1]:+.3g}"

    def close(self, error: BaseException | None, seconds: float):
        """Write the final run.json and the picture."""
        if error is not None:
            self.info["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.info["error"] = str(error) or type(error).__name__
        self.info["seconds"] = round(seconds, 3)
        # A session that lost epochs since its last checkpoint counts in one sum and not in the other.
        self.info["compile_seconds"] = round(min(compile_seconds() - self.compiled, seconds), 3)
        # Medians over the chunks of this session, so that the chunk that compiles has no weight.
        paces = {kind: float(np.median(each)) for kind, each in self.paces.items()}
        self.info["seconds_per_epoch"] = self.info.get("seconds_per_epoch", {}) | paces
        # A full disk makes these writes fail, too. The error that stopped the run must still reach the user.
        try:
            self.directory.write_info(self.info)
            if self.directory.metrics("training"):
                save_figure(self.module.draw(self.directory), self.directory.path / "run.png")
        except OSError:
            if self.info["status"] == "finished":
                raise


def crosses(every: int, done: int, count: int) -> bool:
    """Whether one of the last `count` epochs was a multiple of `every`; never for 0."""
    return every > 0 and done // every > (done - count) // every


def _measured(state: TrainingState) -> dict[str, Any]:
    # The exponents measured after the chunk, one row per chunk. Networks that are never flossed have no others.
    if "exponents" not in state.measures:
        return {}
    return {"measured_epoch": [state.epoch], "measured_exponents": [over_sequences(state.measures["exponents"])]}


def over_sequences(exponents: np.ndarray, among: int = 1) -> np.ndarray:
    """Exponents as a run stores them, with `among` axes: if they are those of several sequences, their mean."""
    return exponents if exponents.ndim == among else exponents.mean(axis=-2)
