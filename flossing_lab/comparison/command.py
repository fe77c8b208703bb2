"""`flossing compare`: a trial of networks with drawn settings, without and with flossing. Imports no JAX."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from flossing_lab.runs.command import OWN_DEFAULT


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare arms, such as no flossing and flossing, over many drawn settings, draw by draw, or over seeds.

    A TOML file holds the protocol: tasks, networks, ranges of settings, arms, and the cost of an epoch; without ranges,
    networks are fixed. This performs the runs that are missing, and writes results.json, table.md and table.png; the
    table has the tests, and says what is missing. Repeating the command continues. The exit code is 1 if a run failed.
    """

    protocol: tyro.conf.Positional[Path]
    """TOML file; comparison/short.toml is an example, comparison/writing.toml one of fixed networks."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Directory of the results. Default: the file without its ending."""
    workers: Annotated[int | None, OWN_DEFAULT] = None
    """Number of worker processes, one thread each. Default: one per usable core."""
    scheduler: str | None = None
    """Address of a running dask scheduler, such as tcp://127.0.0.1:8786, to use its workers instead of our own."""
    table: bool = False
    """Only write the tables of the runs that exist."""
    seconds: bool = False
    """Only measure the seconds of an epoch of training and of flossing, and print them for the protocol."""

    def __call__(self) -> int:
        from rich.console import Console

        from flossing_lab.comparison.protocol import read_trial
        from flossing_lab.comparison.runs import carry_out, collect_existing
        from flossing_lab.comparison.table import write_tables
        from flossing_lab.runs.process import ONE_THREAD

        trial = read_trial(self.protocol)
        if self.seconds:
            os.environ.update(ONE_THREAD)  # as the workers that make the runs
        if not self.table:
            from flossing_lab.comparison.making import check

            try:
                check(trial, with_seconds=not self.seconds)
            except ValueError as error:
                raise ValueError(f"{self.protocol}: {error}") from error
        if self.seconds:
            from flossing_lab.comparison.making import measure_seconds

            for task, networks in measure_seconds(trial).items():
                print(f"[seconds.{task}]", *(f'"{name}" = {pair}' for name, pair in networks.items()), sep="\n")
            return 0
        out, failures = self.out or self.protocol.with_suffix(""), {}

        def write():
            for file in write_tables(trial, out):
                print(f"{file.suffix[1:]:<6} {file}")

        try:
            if self.table:
                collect_existing(trial, out)
            else:
                failures = carry_out(trial, out, workers=self.workers, scheduler=self.scheduler, console=Console())
        except KeyboardInterrupt:
            write()
            raise
        write()
        for message in dict.fromkeys(failures.values()):
            first, *others = [name for name, each in failures.items() if each == message]
            print(f"{first}{f' and {len(others)} more' if others else ''}: {message}")
        return int(bool(failures))
