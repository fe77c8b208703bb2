"""One run: a configuration in, a run directory out, in as many sittings as it takes."""

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from flossing.schedules import floss_never
from flossing._training.train import Progress, TrainingState, array_name, measure_exponents, start_training, train
from flossing_lab.runs.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.console import Status
from flossing_lab.runs.experiment import Experiment
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import save_figure
from flossing_lab.runs.checkpoint import parameters_of, with_parameters
from flossing_lab.runs.process import configure_dtype
from flossing_lab.runs.experiment import experiment_module

OnProgress = Callable[[Status], Any]


def run(
    config: RunConfig, out: Path | str, *, overwrite: bool = False, on_progress: OnProgress = lambda status: None
) -> RunDirectory:
    """Run the experiment that `config` describes and write it to the directory `out`.

    A run of the same configuration that `out` holds already is continued from its newest checkpoint, to the bit as
    if it had never stopped (same machine, versions and threads); a finished one is returned as it is. Metrics and
    parameters are written after each chunk of epochs, so that whatever stops a run leaves a directory that can be
    read and continued.

    **Raises:** `ValueError` if `out` holds a run of another configuration or other files, is in use, or if a value of
    `config` is not legal; `FloatingPointError` if training diverges, after the last good state has been kept;
    `OSError` if the disk is full.
    """
    configure_dtype(config.dtype)
    directory = RunDirectory(out)
    if not overwrite:
        _check_same(directory, config)
        if directory.has_finished(config):
            return directory
    experiment = experiment_module(config).build(config)
    with directory.opened(overwrite=overwrite):
        # Another process may have been at it while this one waited.
        if not directory.has_finished(config):
            _Session(config, directory, experiment, on_progress).work()
    return directory


def _check_same(directory: RunDirectory, config: RunConfig):
    differences = directory.config.differences(config) if directory.exists else {}
    if differences:
        told = ", ".join(f"{name}={theirs!r} (not {ours!r})" for name, (theirs, ours) in differences.items())
        raise ValueError(
            f"out must not hold a run of another configuration, got {str(directory.path)!r}, which has {told}; "
            "--overwrite replaces it"
        )


def load_model(directory: RunDirectory) -> Any:
    """The model of a run, with the parameters of its last chunk."""
    config = directory.config
    return with_parameters(experiment_module(config).draw_model(config), directory.parameters)


class _Session:
    """One process at work on one run, from the newest checkpoint to the end or to what stops it."""

    def __init__(self, config: RunConfig, directory: RunDirectory, experiment: Experiment, on_progress: OnProgress):
        self.config, self.directory, self.on_progress = config, directory, on_progress
        self.module, self.experiment = experiment_module(config), experiment
        self.tested: dict[str, Any] = {}
        self.trained: dict[str, np.ndarray] = {}
        self.paces: dict[str, list[float]] = {}
        self.sure: np.ndarray | None = None
        first = start_training(experiment.model, experiment.optimiser, experiment.flossing)
        found = newest_checkpoint(directory.path / "checkpoints", first)
        self.last = found or Checkpoint(first)
        self.began = time.monotonic() - self.last.seconds
        if found is None or not directory.exists:
            self.info: dict[str, Any] = {"status": "running", "config": {}, **provenance(), "spectra": {}}
        else:
            self.info = directory.info
            resumed = {"epoch": found.state.epoch, "flossing_epoch": found.state.flossing_epoch, **provenance()}
            self.info["resumed"] = [*self.info.get("resumed", []), resumed]
            for name in ("error", "exponents_before_error"):
                self.info.pop(name, None)
        self.info |= {"status": "running", "config": config.model_dump()}
        if self.last.halvings:
            self._scale_step()

    def work(self):
        """Train to the end; whatever stops it is written to run.json."""
        directory, state = self.directory, self.last.state
        directory.forget_after(state.epoch, state.flossing_epoch)
        self._remember(directory.metrics("training"))
        directory.write_info(self.info)
        try:
            if not self.info["spectra"]:
                self._test(state)
                self._measure("start", state.model)
                if self.config.safety.snapshots_every:
                    directory.write_snapshot(0, 0, parameters_of(state.model))
            while not self._train():
                pass
            if (epoch := self.last.state.epoch) < self.config.training.epochs:
                self.info["stopped"] = {"epoch": epoch, "reason": self._why_stop()}
            self._measure("end", self.last.state.model)
            self.info["status"] = "finished"
        except BaseException as error:
            self.info["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.info["error"] = str(error) or type(error).__name__
            raise
        finally:
            self.info["seconds"] = round(time.monotonic() - self.began, 3)
            # Medians over the chunks of this sitting, so that the one that compiles does not count.
            self.info["seconds_per_epoch"] = {kind: float(np.median(each)) for kind, each in self.paces.items()}
            self._close()

    def _train(self) -> bool:
        # To the end, or until numbers cease to be finite; then from the last good state with half the step size.
        status = self._status()
        self.on_progress(status)
        since = time.monotonic()
        try:
            for progress in self._chunks():
                seconds = time.monotonic() - since
                self.paces.setdefault(progress.kind, []).append(seconds / len(progress.epochs))
                self._keep(progress)
                self._follow(status, progress)
                self.on_progress(status)
                since = time.monotonic()
        except FloatingPointError as error:
            self._save()
            if self.last.halvings < self.config.safety.halvings:
                self._halve(error)
                return False
            raise FloatingPointError(f"{error}; {self._describe_last()}") from error
        return True

    def _chunks(self) -> Iterator[Progress]:
        # From test to test, where there are tests: a chunk ends at each.
        experiment, epochs = self.experiment, self.config.training.epochs
        while not self._is_over(self.last.state):
            done = self.last.state.epoch
            every = experiment.test_every if experiment.test else epochs
            for progress in train(
                self.last.state,
                loss=experiment.loss,
                batch=experiment.batch,
                optimiser=experiment.optimiser,
                key=experiment.key,
                epochs=min(epochs, (done // every + 1) * every),
                flossing=experiment.flossing,
                schedule=experiment.schedule,
                term=experiment.term,
                probe=experiment.probe,
                probe_every=experiment.probe_every,
                renew=experiment.renew,
                renew_every=experiment.renew_every,
                chunk=self.config.training.chunk,
            ):
                yield progress
                if self._is_over(progress.state):
                    break

    def _is_over(self, state: TrainingState) -> bool:
        return state.epoch >= self.config.training.epochs or self._why_stop() is not None

    def _why_stop(self) -> str | None:
        # Metrics decide, and they are on the disk: a run that is continued comes to the same end.
        return self.experiment.stop(self.trained) if self.experiment.stop and self.trained else None

    def _remember(self, metrics: dict[str, np.ndarray]):
        if self.experiment.stop is not None:
            before = self.trained or {name: values[:0] for name, values in metrics.items()}
            self.trained = {name: np.concatenate([before[name], values]) for name, values in metrics.items()}

    def _keep(self, progress: Progress):
        # The checkpoint comes last: what it stands for is on the disk before it.
        directory, state, safety = self.directory, progress.state, self.config.safety
        first, done = progress.epochs[0], state.epoch + state.flossing_epoch
        # The exponents measured after the chunk, one row a chunk: networks that are not flossed have no others.
        measured = {}
        if "exponents" in state.measures:
            measured = {"measured_epoch": [state.epoch], "measured_exponents": [state.measures["exponents"]]}
        counts = {"epoch": np.asarray(progress.epochs)}
        if progress.kind == "flossing":
            counts["training_epoch"] = np.full(len(progress.epochs), state.epoch)
        directory.write_metrics(progress.kind, first, counts | progress.metrics | measured)
        parameters = parameters_of(state.model)
        directory.write_parameters(parameters)
        if progress.kind == "training":
            self._remember(counts | progress.metrics)
        block_ends = progress.kind == "flossing" and state.due == 0
        at_the_end = progress.kind == "training" and self._is_over(state)
        crossed = progress.kind == "training" and _crosses(safety.snapshots_every, state.epoch, len(progress.epochs))
        if safety.snapshots_every and (block_ends or at_the_end or crossed):
            directory.write_snapshot(state.epoch, state.flossing_epoch, parameters)
        if block_ends and state.epoch == 0:
            self._measure("after_preflossing", state.model)
        if progress.kind == "training" and (at_the_end or state.epoch % self.experiment.test_every == 0):
            self._test(state)
        self.last = Checkpoint(state, self.last.halvings, time.monotonic() - self.began)
        if at_the_end or _crosses(safety.checkpoint_every, done, len(progress.epochs)):
            self._save()

    def _save(self):
        write_checkpoint(self.directory.path / "checkpoints", self.last)

    def _measure(self, stage: str, model: Any):
        found = self.module.measure(model, self.config)
        for name, note in found.notes.items():
            self.info.setdefault(name, {})[stage] = note
        if found.horizons is not None:
            horizons, logs = found.horizons
            self.directory.write_horizons(self.directory.horizons | {"horizon": horizons, stage: logs})
        self.directory.write_info(self.info)

    def _test(self, state: TrainingState):
        if self.experiment.test is not None:
            self.tested = dict(self.experiment.test(state.model))
            row = {"epoch": state.epoch, **self.tested}
            rows = {name: np.asarray(value)[None] for name, value in row.items()}
            self.directory.write_metrics("test", state.epoch, rows)

    def _halve(self, error: FloatingPointError):
        halvings = self.last.halvings
        self.last = dataclasses.replace(self.last, halvings=halvings + 1)
        rate = self.config.training.learning_rate * 0.5**self.last.halvings
        note = {"epoch": self.last.state.epoch, "reason": str(error), "learning_rate": rate}
        self.info["halvings"] = [*self.info.get("halvings", [])[:halvings], note]
        self.directory.write_info(self.info)
        self._save()
        self._scale_step()

    def _scale_step(self):
        self.experiment = self.module.build(self.config, step_scale=0.5**self.last.halvings)

    def _describe_last(self) -> str:
        # The last state that was good, and its spectrum, which often tells why the next was not.
        state = self.last.state
        where = f"the state after training epoch {state.epoch} is kept"
        try:
            exponents = np.asarray(self.module.measure_spectrum(state.model, self.config).exponents)
        except ValueError:
            return where
        self.info["exponents_before_error"] = exponents
        return f"{where}, its exponents run from λ1 {exponents[0]:+.3g} to λ{len(exponents)} {exponents[-1]:+.3g}"

    def _status(self) -> Status:
        experiment, state, epochs = self.experiment, self.last.state, self.config.training.epochs
        measured = state.measures.get("exponents")
        if measured is None and experiment.flossing is not None:
            measured = measure_exponents(experiment.flossing, state.model, experiment.key)
        exponents = None if measured is None else np.asarray(measured)
        return Status(state.epoch, epochs, state.flossing_epoch, self._flossing_epochs(state), exponents)

    def _flossing_epochs(self, state: TrainingState) -> int:
        # Done, due, and sure to come: gradient norms that are NaN ask no schedule that adapts to floss.
        if self.sure is None:
            schedule, unknown = self.experiment.schedule or floss_never(), {}
            for path, _ in jax.tree_util.tree_leaves_with_path(eqx.filter(state.model, eqx.is_inexact_array)):
                unknown[f"gradient_norm/{array_name(path)}"] = np.nan
            self.sure = np.asarray([schedule(e, unknown) for e in range(1, self.config.training.epochs + 1)])
        return state.flossing_epoch + state.due + int(self.sure[state.asked :].sum())

    def _follow(self, status: Status, progress: Progress):
        state = progress.state
        status.epoch, status.flossing_epoch = state.epoch, state.flossing_epoch
        status.flossing_epochs = self._flossing_epochs(state)
        status.exponents = state.measures.get("exponents")
        if progress.kind == "training":
            # One batch is a noisy look; the mean over the chunk is what a person wants to read.
            known = self.tested | {name: values.mean() for name, values in progress.metrics.items()}
            shown = self.experiment.shown
            status.shown = {name: (float(known[name]), form) for name, form in shown.items() if name in known}

    def _close(self):
        # On a full disk the last words cannot be written; what stopped the run is then what a person must see.
        try:
            self.directory.write_info(self.info)
            if self.directory.metrics("training"):
                save_figure(self.module.draw(self.directory), self.directory.path / "run.png")
        except OSError:
            if self.info["status"] == "finished":
                raise


def _crosses(every: int, done: int, count: int) -> bool:
    return every > 0 and done // every > (done - count) // every


def provenance() -> dict[str, Any]:
    packages = ("flossing", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "device": str(jax.devices()[0]),
        "platform": platform.platform(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
