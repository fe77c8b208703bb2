"""`flossing sweep` and `flossing collect`. Imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from flossing_lab.runs.command import OWN_DEFAULT


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run every configuration of a specification in parallel, each in its own directory.

    Repeating the command runs only what is missing. The exit code is 1 if a run failed.
    """

    spec: tyro.conf.Positional[Path]
    """TOML file: [base] holds what all runs share; each [[axes]] table is an axis along which they differ."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Directory of the sweep. Default: sweeps/ plus the name of the specification."""
    workers: Annotated[int | None, OWN_DEFAULT] = None
    """Number of worker processes, one thread each. Default: one per usable core."""
    scheduler: str | None = None
    """Address of a running dask scheduler, such as tcp://127.0.0.1:8786, to use its workers instead of our own."""

    def __call__(self) -> int:
        from rich.console import Console

        from flossing_lab.sweeps.spec import read_spec
        from flossing_lab.sweeps.sweep import sweep

        spec = read_spec(self.spec)
        out = Path("sweeps") / spec.name if self.out is None else self.out
        outcome = sweep(spec, out, workers=self.workers, scheduler=self.scheduler, console=Console())
        print(f"{outcome.finished} runs finished, {outcome.reused} had finished before, {outcome.failed} failed")
        print(f"view them with   flossing report {out}")
        return 1 if outcome.failed else 0


@dataclasses.dataclass(frozen=True)
class Collect:
    """Collect the finished runs of a sweep, or of any folder with runs, into one labelled dataset (xarray, Zarr)."""

    directory: tyro.conf.Positional[Path]
    """Sweep directory, or any folder that contains runs."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Zarr store to write; replaces only stores that this command wrote. Default: collected.zarr in the directory."""

    def __call__(self):
        from flossing_lab.sweeps.dataset import collect

        out = self.directory / "collected.zarr" if self.out is None else self.out
        dataset = collect(self.directory, out)
        print(f"dimensions   {', '.join(f'{name} {size}' for name, size in dataset.sizes.items())}\ndataset      {out}")
