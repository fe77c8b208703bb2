"""The command line: `flossing train`, `spectrum`, `demo`, `sweep`, `collect`, `report`.

The arguments of a run are the fields of `Config`. JAX is imported only when a command starts, so that `--help` answers
at once.
"""

import contextlib
import dataclasses
import io
import itertools
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

import tyro
from pydantic import BaseModel, Field, ValidationError, create_model

from flossing.experiment.config import Config, explain_invalid


def _unchecked(section: type[BaseModel]) -> type[BaseModel]:
    # tyro reports what cannot be parsed; what can be parsed but is not legal is for Config to say, in its one line.
    # So tyro fills a copy of each section whose types have no bounds.
    fields: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        kind, default = _plain_type(info.annotation), info.default
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = _unchecked(kind)
            default = kind()
        fields[name] = (kind, Field(default=default, description=info.description))
    return create_model(section.__name__, __doc__=section.__doc__, **fields)


def _plain_type(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        return get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(_plain_type(option) for option in get_args(kind))]  # noqa: UP007 (made of values)
    return kind


_Arguments = tyro.conf.OmitArgPrefixes[_unchecked(Config)]


@dataclasses.dataclass(frozen=True)
class Train:
    """Run the reference experiment; the defaults are the paper's released example.

    Writes a run directory: configuration, versions, metrics of every epoch, parameters, checkpoints, a picture. The
    same command again continues a run that was stopped, to the bit as if it had not been.
    """

    config: _Arguments
    out: Path | None = None
    """Run directory; by default runs/ and a name made of task, delay, condition and seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """A run directory to continue with the configuration it holds; of the other arguments only CHECKPOINT-EVERY,
    SNAPSHOTS-EVERY and HALVINGS count."""

    def __call__(self):
        from rich.console import Console

        from flossing.experiment.console import Display
        from flossing.experiment.directory import RunDirectory
        from flossing.experiment.run import run

        config = _checked(self.config)
        out = default_directory(config) if self.out is None else self.out
        if self.resume is not None:
            if self.out is not None or self.overwrite:
                raise ValueError(f"out and overwrite must be left out with resume, got resume={str(self.resume)!r}")
            out, safety = self.resume, config.safety
            config = RunDirectory(out).config.model_copy(update={"safety": safety})
        console = Console()
        directory = RunDirectory(out)
        if directory.has_finished(config) and not self.overwrite:
            console.print("this run is finished; --overwrite runs it anew", highlight=False)
        else:
            with Display(console) as display:
                display.start("training")
                _cache()
                run(config, out, overwrite=self.overwrite, on_progress=display.update)
        accuracy = directory.metrics("training")["accuracy"][-100:].mean()
        console.print(f"accuracy over the last epochs {accuracy:.3f}", highlight=False)
        console.print(f"run directory   {out}\npicture         {out / 'run.png'}", highlight=False)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Print and draw the Lyapunov spectrum of a saved run or of a freshly drawn network."""

    config: _Arguments
    run: Path | None = None
    """A run directory whose final network is measured; its configuration replaces the other arguments."""
    first: int | None = None
    """How many exponents, from the largest; all by default."""
    picture: Path = Path("spectrum.png")
    """Where the picture goes."""

    def __call__(self):
        from rich.console import Console

        from flossing.experiment.spectrum import show_spectrum

        config = _checked(self.config)
        _cache()
        show_spectrum(config, self.run, self.first, self.picture, Console())


@dataclasses.dataclass(frozen=True)
class Demo:
    """Watch a network that cannot learn learn: one task, three conditions, a table and a picture."""

    delay: int = 20
    """Basic lag of the temporal XOR; the lags are this and twice this."""
    epochs: int = 3001
    """Training epochs."""
    seed: int = 1
    """All four seeds."""
    out: Path = Path("runs/demo")
    """Where runs, picture and summary go; an earlier demo there is replaced."""

    def __call__(self):
        from rich.console import Console

        from flossing.experiment.demo import demo

        config = Config().with_values(delay=self.delay, epochs=self.epochs, seed=self.seed)
        _cache()
        demo(config, self.out, Console())


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run every configuration of a specification, each in a directory of its own, several at once.

    The same command again runs what is missing and reuses the rest. Exit code 1 if a run failed.
    """

    spec: tyro.conf.Positional[Path]
    """A TOML file: [base] is what all runs share, each [[axes]] table is an axis along which they differ."""
    out: Path | None = None
    """Where the runs go; by default sweeps/ and the specification's name."""
    workers: int | None = None
    """Worker processes, each with one thread; by default one for each usable core."""
    scheduler: str | None = None
    """Address of a running dask scheduler, such as tcp://127.0.0.1:8786, whose workers run instead of our own."""

    def __call__(self) -> int:
        from rich.console import Console

        from flossing.experiment.spec import read_spec
        from flossing.experiment.sweep import sweep

        spec = read_spec(self.spec)
        out = Path("sweeps") / spec.name if self.out is None else self.out
        outcome = sweep(spec, out, workers=self.workers, scheduler=self.scheduler, console=Console())
        print(f"{outcome.finished} runs finished, {outcome.reused} before, {outcome.failed} failed")
        print(f"look at them with   flossing report {out}")
        return 1 if outcome.failed else 0


@dataclasses.dataclass(frozen=True)
class Collect:
    """Put the finished runs of a sweep, or of any folder with runs, into one labelled dataset (xarray, Zarr)."""

    directory: tyro.conf.Positional[Path]
    """The directory of a sweep, or any folder with runs below."""
    out: Path | None = None
    """The Zarr store, replaced if it is one of ours; by default collected.zarr in the directory."""

    def __call__(self):
        from flossing.experiment.dataset import collect

        out = self.directory / "collected.zarr" if self.out is None else self.out
        dataset = collect(self.directory, out)
        print(f"dimensions   {', '.join(f'{name} {size}' for name, size in dataset.sizes.items())}\ndataset      {out}")


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one HTML page that shows runs, a comparison or a sweep; it needs no network to be read."""

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, directories of sweeps, or folders with runs below."""
    out: Path = Path("report.html")
    """Where the page goes."""

    def __call__(self):
        from flossing.experiment.report import write_report

        if not self.directories:
            raise ValueError("directories must name at least one directory with runs, got none")
        print(f"page   {write_report(self.directories, self.out)}")


COMMANDS: dict[str, Callable] = {
    "train": Train,
    "spectrum": Spectrum,
    "demo": Demo,
    "sweep": Sweep,
    "collect": Collect,
    "report": Report,
}


def _parse(arguments: Sequence[str] | None) -> Any:
    # tyro draws a box around what it cannot parse; its first paragraph says all, and fits into our one line.
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="flossing",
                description="Train recurrent networks over long horizons by controlling their Lyapunov exponents.",
                args=arguments,
            )
    except SystemExit as end:
        if not end.code:
            raise
    lines = [line.strip("│ ") for line in said.getvalue().splitlines() if not line.startswith(("╭", "╰"))]
    paragraph = itertools.takewhile(lambda line: not line.startswith("─"), lines)
    _stop(f"{' '.join(paragraph)} (flossing --help tells what is legal)", 2)


_KEPT = "; what was done is kept, and the same command goes on from there"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    command = _parse(arguments)
    try:
        code = command()
    except ValidationError as error:
        _stop(explain_invalid(error), 2)
    except ValueError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.filename or 'a file'}: {error.strerror or error}{_KEPT}", 1)
    except FloatingPointError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop(f"interrupted{_KEPT}", 130)
    if code:
        raise SystemExit(code)


def _checked(arguments: BaseModel) -> Config:
    return Config.model_validate(arguments.model_dump())


def _cache():
    # Compiled programs stay on the disk from one start of the command line to the next.
    from flossing.experiment.process import cache_compilations

    cache_compilations()


def default_directory(config: Config) -> Path:
    """A name that tells runs apart at a glance."""
    return Path("runs") / (
        f"{config.task.task}-{config.task.delay}-{config.flossing.condition}-seed{config.seeds.seed_network}"
    )


def _stop(message: str, code: int) -> NoReturn:
    print(f"flossing: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
