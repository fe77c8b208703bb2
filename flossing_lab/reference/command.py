"""`flossing train`: run the reference experiment."""

import dataclasses
from pathlib import Path

from flossing_lab.reference.config import Config
from flossing_lab.runs.command import arguments_of, say, train


@dataclasses.dataclass(frozen=True)
class Train:
    """Run the reference experiment, or the second one with `train balance`. Defaults: those of the released examples.

    The second experiment, a network that balances itself, has its own arguments: see `flossing train balance --help`.

    This writes a run directory: configuration, versions, metrics of every epoch, parameters, checkpoints, a picture.
    If a run was interrupted, the same command continues it, bit for bit as if it had never stopped.
    """

    config: arguments_of(Config)  # pyright: ignore[reportInvalidTypeForm]
    """The settings of the run."""
    seed: int | None = None
    """Value of all seeds at once."""
    out: Path | None = None
    """Run directory. Default: runs/ plus a name built from task, delay, condition and seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """Run directory to continue, with its stored configuration. EPOCHS lengthens it; CHECKPOINT-EVERY,
    SNAPSHOTS-EVERY and HALVINGS may change; other arguments are refused."""

    def __call__(self):
        directory = train(Config, self.config, self.out, self.overwrite, self.resume, self.seed)
        if stopped := directory.info.get("stopped"):
            say(f"ended at epoch {stopped['epoch']}: {stopped['reason']}")
        say(f"accuracy over the last epochs {directory.metrics('training')['accuracy'][-100:].mean():.3f}")
        say(f"run directory   {directory.path}\nplot            {directory.path / 'run.png'}")


COMMAND = Train
