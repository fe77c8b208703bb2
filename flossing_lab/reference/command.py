"""`flossing train`: run the reference experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated

from flossing_lab.reference.call import CALLED, flags, read_call
from flossing_lab.reference.config import Config
from flossing_lab.runs.command import OWN_DEFAULT, arguments_of, checked, say, train


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one network, with and without flossing: the reference experiment, with the released code's defaults.

    Two more experiments have arguments of their own: `flossing train balance --help`, a network that balances itself,
    and `flossing train own --help`, your task and your cell.

    This writes a run directory: configuration, versions, metrics of every epoch, parameters, checkpoints, a picture.
    If a run was interrupted, the same command continues it, bit for bit as if it had never stopped.
    """

    config: arguments_of(Config)  # pyright: ignore[reportInvalidTypeForm]
    """The settings of the run."""
    call: str | None = None
    """Call of the Julia code, trainRNNflossing(80, 3001, ...), or its 33 numbers; prints the flags that it means."""
    seed: int | None = None
    """Value of all seeds at once."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Run directory. Default: runs/ plus a name built from task, delay, condition and seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """Run directory to continue; with it, only EPOCHS, CHECKPOINT-EVERY, SNAPSHOTS-EVERY and HALVINGS may be given."""

    film: bool = False
    """Write film.gif, a film of the recurrent weights and their eigenvalues, from the snapshots."""

    def __call__(self):
        arguments = self.config if self.call is None else self._called(self.call)
        if self.film and not checked(Config, arguments).safety.snapshots_every:
            raise ValueError("film needs snapshots, got snapshots_every=0")
        directory = train(Config, arguments, self.out, self.overwrite, self.resume, self.seed)
        if stopped := directory.info.get("stopped"):
            say(f"ended at epoch {stopped['epoch']}: {stopped['reason']}")
        say(f"accuracy over the last epochs {directory.metrics('training')['accuracy'][-100:].mean():.3f}")
        say(f"run directory   {directory.path}\nplot            {directory.path / 'run.png'}")
        if self.film:
            from flossing_lab.reference.figures import write_film

            say(f"film            {write_film(directory)}")

    def _called(self, text: str) -> Config:
        """The configuration of a call, with those flags that the call leaves open."""
        if self.seed is not None or self.resume is not None:
            raise ValueError("seed and resume must be left out with call, which gives all seeds and a run of its own")
        call = read_call(text)
        given = {name: ours for name, (_, ours) in Config().differences(checked(Config, self.config)).items()}
        if clash := [name for name in given if name in CALLED]:
            raise ValueError(f"{clash[0]} must be left out with call, which says it, got {given[clash[0]]!r}")
        safety = checked(Config, self.config).safety
        config = call.config.with_values(**given).model_copy(update={"safety": safety})
        say(f"this call is   {flags(config)}")
        for note in call.notes:
            say(f"note           {note}")
        return config


COMMAND = Train
