"""`flossing train balance`: a network that balances itself."""

import dataclasses
from pathlib import Path
from typing import Annotated

from flossing_lab.balance.config import BalanceConfig
from flossing_lab.runs.command import OWN_DEFAULT, arguments_of, say, train


@dataclasses.dataclass(frozen=True)
class TrainBalance:
    """Train a network that balances itself as it learns to track signals.

    N noisy rectified units inhibit one another. S readouts learn to reproduce S Ornstein-Uhlenbeck signals without
    delay. Training tightens the balance: the mean coupling grows severalfold, and S eigenvalues move far to the left of
    the others. With several signals, the neurons form S groups that mostly inhibit themselves. The defaults are the
    released example. 100,001 epochs take a few minutes on two cores; the groups appear after about 15,000.

    This writes a run directory, as `flossing train` does, and a film. If a run was interrupted, the same command
    continues it.
    """

    config: arguments_of(BalanceConfig)  # pyright: ignore[reportInvalidTypeForm]
    """The settings of the run."""
    seed: int | None = None
    """Value of all seeds at once."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Run directory. Default: runs/ plus a name built from the number of signals and the seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """Run directory to continue; with it, only EPOCHS, CHECKPOINT-EVERY, SNAPSHOTS-EVERY and HALVINGS may be given."""
    film: bool = True
    """Write film.gif, a film of the weights and eigenvalues, from the snapshots."""

    def __call__(self):
        directory = train(BalanceConfig, self.config, self.out, self.overwrite, self.resume, self.seed)
        test = directory.metrics("test", ("test_error", "balance"))
        error, balance = test["test_error"], test["balance"]
        say(f"test error {error[0]:.3f} -> {error[-1]:.4f}   balance {balance[0]:.2f} -> {balance[-1]:.2f}")
        say(f"run directory   {directory.path}\nplot            {directory.path / 'run.png'}")
        if self.film and directory.snapshots:
            from flossing_lab.balance.experiment import film

            say(f"film            {film(directory)}")


COMMAND = TrainBalance
