"""`flossing train own` and `flossing train mine.py:MyTask`: any task and any cell."""

import dataclasses
from pathlib import Path
from typing import Annotated

from flossing_lab.own.config import OwnConfig
from flossing_lab.runs.command import OWN_DEFAULT, arguments_of, say, train


@dataclasses.dataclass(frozen=True)
class TrainOwn:
    """Train a cell of the library or of your own on a task of the library or of your own, with and without flossing.

        flossing train mine.py:MyTask --cell mine.py:MyCell --units 64
        flossing train own --task TemporalXOR --task-options '{"delay": 20}' --cell gru

    A task draws trials, `task(key) -> flossing.tasks.Trial`, and scores outputs; a cell is called as `cell(input,
    state)`: see flossing.tasks.Task and flossing.cells.Cell. This writes a run directory, which spectrum, diagnose,
    report and collect read. If a run was interrupted, the same command continues it, bit for bit as if it had never
    stopped. A run whose file has changed since is refused.
    """

    config: arguments_of(OwnConfig)  # pyright: ignore[reportInvalidTypeForm]
    """The settings of the run."""
    seed: int | None = None
    """Value of all seeds at once."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Run directory. Default: runs/ plus a name built from task, cell, condition and seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """Run directory to continue; with it, only EPOCHS, CHECKPOINT-EVERY, SNAPSHOTS-EVERY and HALVINGS may be given."""

    def __call__(self):
        directory = train(OwnConfig, self.config, self.out, self.overwrite, self.resume, self.seed)
        training = directory.metrics("training")
        say(f"over the last epochs: loss {training['loss'][-100:].mean():.4g}, "
            f"accuracy {training['accuracy'][-100:].mean():.3f}")  # fmt: skip
        say(f"run directory   {directory.path}\nplot            {directory.path / 'run.png'}")


COMMAND = TrainOwn
