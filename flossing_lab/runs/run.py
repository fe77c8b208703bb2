"""One run: a configuration in, a run directory out, in as many sessions as it takes."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flossing._schedule import guaranteed_epochs
from flossing._training.train import Chunk, TrainingState, init_training, measure_exponents, train
from flossing.schedules import never
from flossing_lab.runs.checkpoint import Checkpoint, newest_checkpoint, with_parameters, write_checkpoint
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.console import Status
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.experiment import Builder, Experiment, experiment_module
from flossing_lab.runs.process import configure_dtype
from flossing_lab.runs.recorder import Recorder, crosses, over_sequences

OnProgress = Callable[[Status], Any]


def run(
    config: RunConfig,
    out: Path | str,
    *,
    overwrite: bool = False,
    lengthen: bool = False,
    on_progress: OnProgress = lambda status: None,
) -> RunDirectory:
    """Run the experiment that `config` describes and write it to the directory `out`.

    If `out` already holds a run of the same configuration, this continues from its newest checkpoint, bit for bit as if
    it had never stopped (on the same machine, with the same versions and threads). A finished run is returned as it is.
    Metrics and parameters are written after each chunk of epochs, so the directory of an interrupted run can always be
    read and continued. With `lengthen`, a run whose configuration differs only by fewer epochs is continued as well.

    **Raises:** `ValueError` if `out` holds a run of another configuration or other files, is in use, or if a value of
    `config` is not legal; `FloatingPointError` if training diverges, after the last good state has been stored;
    `OSError` if the disk is full.
    """
    configure_dtype(config.dtype)
    return carry_out(
        config,
        experiment_module(config),
        out,
        overwrite=overwrite,
        lengthen=lengthen,
        on_progress=on_progress,
    )


def carry_out(
    config: RunConfig,
    module: Builder,
    out: Path | str,
    *,
    overwrite: bool,
    lengthen: bool,
    on_progress: OnProgress,
    made_of: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Do what `run` does, with an experiment that `module` builds and measures, in the precision JAX has now.

    `made_of` is added to run.json when the run is new.
    """
    directory = RunDirectory(out)
    directory.check()  # before what takes seconds
    if not overwrite:
        _check_same(directory, config, lengthen)
        if directory.has_finished(config):
            return directory
    experiment = module.build(config)
    with directory.opened(overwrite=overwrite):
        # Another process may have begun or finished it while this one waited.
        _check_same(directory, config, lengthen)
        if not directory.has_finished(config):
            _Session(config, module, directory, experiment, on_progress, made_of or {}).work()
    return directory


def _check_same(directory: RunDirectory, config: RunConfig, lengthen: bool):
    differences = directory.config.differences(config) if directory.exists else {}
    before, now = differences.get("epochs", (0, 0))
    if lengthen and now > before and (reason := config.keeps_its_length):
        raise ValueError(f"epochs must be the {before} of the run, {reason}, got epochs={now}")
    longer = ", and resume lengthens it" if now > before and set(differences) == {"epochs"} else ""
    if lengthen and now > before:
        differences.pop("epochs")
    if differences:
        listed = ", ".join(f"{name}={theirs!r} (not {ours!r})" for name, (theirs, ours) in differences.items())
        raise ValueError(
            f"out must not hold a run of another configuration, got {str(directory.path)!r}, which has {listed}; "
            f"overwrite replaces it{longer}"
        )


def drawn(config: RunConfig) -> Any:
    """A freshly drawn model of an experiment."""
    module = experiment_module(config)
    module.check(config)
    return module.draw_model(config)


def load_model(directory: RunDirectory) -> Any:
    """The model of a run, with the parameters of its last chunk."""
    config = directory.config
    return with_parameters(experiment_module(config).draw_model(config), directory.parameters)


class _Session:
    """One process that works on one run, from the newest checkpoint until training ends or something stops it."""

    def __init__(
        self,
        config: RunConfig,
        module: Builder,
        directory: RunDirectory,
        experiment: Experiment,
        on_progress: OnProgress,
        made_of: Mapping[str, Any],
    ):
        self.config, self.module, self.directory, self.on_progress = config, module, directory, on_progress
        self.experiment, self.epochs = experiment, config.training.epochs
        first = init_training(experiment.model, experiment.optimiser, experiment.flossing)
        # Without run.json, checkpoints are those of a run that was being overwritten.
        found = newest_checkpoint(directory.path / "checkpoints", first) if directory.exists else None
        self.last = found or Checkpoint(first)
        self.recorder = Recorder(config, module, directory, None if found is None else found.state)
        self.recorder.info = {**made_of, **self.recorder.info}
        self.began = time.monotonic() - self.last.seconds
        if self.last.halvings:
            self._scale_step()

    def work(self):
        """Train to the end. If anything stops the run, run.json records it."""
        recorder, error = self.recorder, None
        try:
            recorder.open(self.last.state)
            self.on_progress(self._status())  # the measurements that follow take seconds
            recorder.begin(self.experiment, self.last.state)
            while not self._train():
                pass
            if (epoch := self.last.state.epoch) < self.epochs:
                recorder.info["stopped"] = {"epoch": epoch, "reason": self._why_stop()}
            recorder.measure("end", self.last.state.model)
            recorder.info["status"] = "finished"
        except BaseException as stopped:
            error = stopped
            raise
        finally:
            recorder.close(error, time.monotonic() - self.began)

    def _train(self) -> bool:
        # True at the end. False if training diverged: call again to continue from the last good state with half the
        # learning rate.
        status = self._status()
        self.on_progress(status)
        since = time.monotonic()
        try:
            for done in self._chunks():
                self._keep(done, time.monotonic() - since)
                self._follow(status, done)
                self.on_progress(status)
                since = time.monotonic()
        except FloatingPointError as error:
            self._save()
            if self.last.halvings >= self.config.safety.halvings:
                raise FloatingPointError(f"{error}; {self.recorder.describe_last(self.last.state)}") from error
            self.last = dataclasses.replace(self.last, halvings=self.last.halvings + 1)
            self.recorder.halving(self.last, error)
            self._save()
            self._scale_step()
            return False
        return True

    def _chunks(self) -> Iterator[Chunk]:
        # Train in segments that end where the network is tested or renewed.
        experiment = self.experiment
        while not self._is_over(self.last.state):
            for done in train(
                self.last.state,
                loss=experiment.loss,
                batch=experiment.batch,
                optimiser=experiment.optimiser,
                key=experiment.key,
                epochs=self._end_of_segment(self.last.state.epoch),
                flossing=experiment.flossing,
                schedule=experiment.schedule,
                term=experiment.term,
                probe=experiment.probe,
                probe_every=experiment.probe_every,
                chunk=self.config.training.chunk,
            ):
                done = self._renewed(done)
                yield done
                if self._is_over(done.state):
                    break

    def _end_of_segment(self, epoch: int) -> int:
        experiment = self.experiment
        every = [experiment.test_every] if experiment.test else []
        every += [experiment.renew_every] if experiment.renew else []
        return min([self.epochs, *((epoch // each + 1) * each for each in every)])

    def _renewed(self, done: Chunk) -> Chunk:
        experiment = self.experiment
        if experiment.renew is None or done.kind != "training" or done.state.epoch % experiment.renew_every:
            return done
        return done._replace(state=dataclasses.replace(done.state, model=experiment.renew(done.state.model)))

    def _is_over(self, state: TrainingState) -> bool:
        return state.epoch >= self.epochs or self._why_stop() is not None

    def _why_stop(self) -> str | None:
        # Only metrics decide, and they are on disk, so a resumed run ends at the same epoch.
        trained = self.recorder.trained
        return self.experiment.stop(trained) if self.experiment.stop and trained else None

    def _keep(self, done: Chunk, seconds: float):
        # Write the checkpoint last, when everything it relies on is on disk.
        state, count = done.state, len(done.epochs)
        self.recorder.remember(done)
        is_last = done.kind == "training" and self._is_over(state)
        self.recorder.chunk(self.experiment, done, seconds, is_last=is_last)
        self.last = Checkpoint(state, self.last.halvings, time.monotonic() - self.began)
        epochs = state.epoch + state.flossing_epoch
        if is_last or crosses(self.config.safety.checkpoint_every, epochs, count):
            self._save()

    def _save(self):
        write_checkpoint(self.directory.path / "checkpoints", self.last)

    def _scale_step(self):
        self.experiment = self.module.build(self.config, step_scale=0.5**self.last.halvings)

    def _status(self) -> Status:
        experiment, state = self.experiment, self.last.state
        measured = state.measures.get("exponents")
        if measured is None and experiment.flossing is not None:
            measured = measure_exponents(experiment.flossing, state.model, experiment.key)
        exponents = None if measured is None else over_sequences(np.asarray(measured))
        return Status(state.epoch, self.epochs, state.flossing_epoch, self._flossing_epochs(state), exponents)

    def _flossing_epochs(self, state: TrainingState) -> int:
        # Epochs done, pending, and guaranteed to come.
        schedule = self.experiment.schedule or never()
        return state.flossing_epoch + state.pending + guaranteed_epochs(schedule, state.queried_epoch, self.epochs)

    def _follow(self, status: Status, done: Chunk):
        state = done.state
        status.epoch, status.flossing_epoch = state.epoch, state.flossing_epoch
        status.flossing_epochs = self._flossing_epochs(state)
        measured = state.measures.get("exponents")
        status.exponents = None if measured is None else over_sequences(np.asarray(measured))
        if done.kind == "training":
            # One batch is noisy, so show the mean over the chunk.
            known = self.recorder.tested | {name: values.mean() for name, values in done.metrics.items()}
            shown = self.experiment.shown
            status.shown = {name: (float(known[name]), form) for name, form in shown.items() if name in known}
