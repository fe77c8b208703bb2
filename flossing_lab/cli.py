"""The command line: `flossing train`, `train balance`, `spectrum`, `demo`, `sweep`, `collect`, `report`, `paper`.

The arguments of a run are the fields of its configuration. JAX is imported only when a command starts, so that
`--help` answers at once.
"""

import contextlib
import dataclasses
import io
import itertools
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import tyro
from pydantic import BaseModel, Field, ValidationError, create_model

from flossing_lab.balance.config import BalanceConfig
from flossing_lab.reference.config import Config
from flossing_lab.runs.config import RunConfig, explain_invalid

if TYPE_CHECKING:
    from flossing_lab.runs.directory import RunDirectory


def _unchecked(section: type[BaseModel]) -> type[BaseModel]:
    # tyro reports what cannot be parsed; what can be parsed but is not legal is for Config to say, in its one line.
    # So tyro fills a copy of each section whose types have no bounds.
    fields: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if name == "experiment":  # the command says it
            continue
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
_BalanceArguments = tyro.conf.OmitArgPrefixes[_unchecked(BalanceConfig)]


@dataclasses.dataclass(frozen=True)
class Train:
    """Run the reference experiment, or with `train balance` the second one; defaults are the released examples.

    The second, a network that balances itself, has arguments of its own: see `flossing train balance --help`.

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
        directory = _train(Config, self.config, self.out, self.overwrite, self.resume)
        if stopped := directory.info.get("stopped"):
            _say(f"ended at epoch {stopped['epoch']}: {stopped['reason']}")
        _say(f"accuracy over the last epochs {directory.metrics('training')['accuracy'][-100:].mean():.3f}")
        _say(f"run directory   {directory.path}\npicture         {directory.path / 'run.png'}")


@dataclasses.dataclass(frozen=True)
class TrainBalance:
    """Run the second experiment: a network that learns to track signals and, doing so, balances itself.

    N rectified units with noise inhibit one another; S readouts shall give back S Ornstein-Uhlenbeck signals at once.
    Training makes the inhibition tight: the mean coupling grows several times, S eigenvalues leave the others far to
    the left, and with several signals the neurons fall into S groups that inhibit mostly themselves. The defaults are
    the released example. 100,001 epochs take a few minutes on two cores, and the groups show after some 15,000.

    Writes a run directory as `flossing train` does, and a film. The same command again continues a run that was
    stopped.
    """

    config: _BalanceArguments
    out: Path | None = None
    """Run directory; by default runs/ and a name made of the number of signals and the seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """A run directory to continue with the configuration it holds; of the other arguments only CHECKPOINT-EVERY,
    SNAPSHOTS-EVERY and HALVINGS count."""
    film: bool = True
    """Write the film of weights and eigenvalues, film.gif, made of the snapshots."""

    def __call__(self):
        directory = _train(BalanceConfig, self.config, self.out, self.overwrite, self.resume)
        test = directory.metrics("test", ("test_error", "balance"))
        error, balance = test["test_error"], test["balance"]
        _say(f"test error {error[0]:.3f} -> {error[-1]:.4f}   balance {balance[0]:.2f} -> {balance[-1]:.2f}")
        _say(f"run directory   {directory.path}\npicture         {directory.path / 'run.png'}")
        if self.film and directory.snapshots:
            from flossing_lab.balance.experiment import film

            _say(f"film            {film(directory)}")


def _train(
    kind: type[RunConfig], arguments: BaseModel, out: Path | None, overwrite: bool, resume: Path | None
) -> "RunDirectory":
    from rich.console import Console

    from flossing_lab.runs.console import Display
    from flossing_lab.runs.directory import RunDirectory
    from flossing_lab.runs.run import run

    config = _checked(kind, arguments)
    if resume is not None and (out is not None or overwrite):
        raise ValueError(f"out and overwrite must be left out with resume, got resume={str(resume)!r}")
    out = resume or out or Path("runs") / config.name
    directory = RunDirectory(out)
    if resume is not None:
        stored = directory.config
        if not isinstance(stored, kind):
            raise ValueError(
                f"resume must be a run of this experiment, got one of {stored.experiment!r} in {str(out)!r}"
            )
        config = stored.model_copy(update={"safety": config.safety})
    if directory.has_finished(config) and not overwrite:
        _say("this run is finished; --overwrite runs it anew")
        return directory
    with Display(Console()) as display:
        display.start("training")
        _cache()
        return run(config, out, overwrite=overwrite, on_progress=display.update)


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

        from flossing_lab.runs.spectrum import show_spectrum

        config = _checked(Config, self.config)
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

        from flossing_lab.reference.demo import demo

        if self.seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got seed={self.seed}")
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

        from flossing_lab.sweeps.spec import read_spec
        from flossing_lab.sweeps.sweep import sweep

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
        from flossing_lab.sweeps.dataset import collect

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
        from flossing_lab.report import write_report

        if not self.directories:
            raise ValueError("directories must name at least one directory with runs, got none")
        print(f"page   {write_report(self.directories, self.out)}")


@dataclasses.dataclass(frozen=True)
class Paper:
    """Make the paper, figure by figure: run what is missing, draw, and say which of its claims are found here.

    Writes a picture and a data file for each figure, and RESULTS.md. The same command again makes what is missing and
    reuses the rest. Exit code 1 if a run failed.
    """

    scale: Literal["laptop", "paper", "tiny"] = "laptop"
    """laptop: half an hour on two cores; paper: 20 networks, all delays, 10,000 epochs, for a cluster; tiny: a few
    minutes, to see that all works."""
    only: str | None = None
    """Figures to make runs for, such as fig1,fig3; all of the paper by default. above_n, capacity, frontier,
    gradient_snr, larger and limits go beyond it: tens of core-hours. Those not named are drawn from what there is."""
    out: Path = Path("paper-runs")
    """Where pictures, data, RESULTS.md, runs/ and calculations/ go."""
    workers: int | None = None
    """Worker processes, each with one thread; by default one for each usable core."""
    scheduler: str | None = None
    """Address of a running dask scheduler, such as tcp://127.0.0.1:8786, whose workers run instead of our own."""

    def __call__(self) -> int:
        from rich.console import Console

        from flossing_lab.paper.make import make_paper

        only = None if self.only is None else self.only.split(",")
        options = {"only": only, "workers": self.workers, "scheduler": self.scheduler}
        return 1 if make_paper(self.scale, self.out, console=Console(), **options) else 0


COMMANDS: dict[str, Callable] = {
    "train": Train,
    "spectrum": Spectrum,
    "demo": Demo,
    "sweep": Sweep,
    "collect": Collect,
    "report": Report,
    "paper": Paper,
}


def _parse(arguments: Sequence[str] | None) -> Any:
    # tyro draws a box around what it cannot parse; its first paragraph says all, and fits into our one line.
    said, words = io.StringIO(), list(sys.argv[1:] if arguments is None else arguments)
    try:
        with contextlib.redirect_stderr(said):
            # `train` takes the arguments of the first experiment without a word, which no parser of ours would allow.
            if words[:2] == ["train", "balance"]:
                return tyro.cli(TrainBalance, prog="flossing train balance", args=words[2:])
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="flossing",
                description="Train recurrent networks over long horizons by controlling their Lyapunov exponents.",
                args=words,
            )
    except SystemExit as end:
        if not end.code:
            raise
    lines = [line.strip("│ ") for line in said.getvalue().splitlines() if not line.startswith(("╭", "╰"))]
    paragraph = itertools.takewhile(lambda line: not line.startswith("─"), lines)
    _stop(f"{' '.join(paragraph)} ({_program(words)} --help tells what is legal)", 2)


def _program(words: Sequence[str]) -> str:
    # The command that knows the arguments, as far as there is one.
    known = 2 if words[:2] == ["train", "balance"] else int(words[:1] != [] and words[0] in COMMANDS)
    return " ".join(["flossing", *words[:known]])


_KEPT = "; what was done is kept, and the same command goes on from there"
_RESUMABLE = (Train, TrainBalance, Sweep, Paper)
_BAD_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""An argument that names something else than it should, rather than a disk that is full."""


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
        wrong = isinstance(error, _BAD_PATH)
        kept = "" if wrong or not isinstance(command, _RESUMABLE) else _KEPT
        _stop(f"{error.filename or 'a file'}: {error.strerror or error}{kept}", 2 if wrong else 1)
    except FloatingPointError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop(f"interrupted{_KEPT if isinstance(command, _RESUMABLE) else ''}", 130)
    if code:
        raise SystemExit(code)


def _checked(kind: type[RunConfig], arguments: BaseModel) -> RunConfig:
    return kind.model_validate(arguments.model_dump())


def _say(text: str):
    from rich.console import Console

    Console().print(text, highlight=False, soft_wrap=True)


def _cache():
    # Compiled programs stay on the disk from one start of the command line to the next.
    from flossing_lab.runs.process import cache_compilations

    cache_compilations()


def _stop(message: str, code: int) -> NoReturn:
    print(f"flossing: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
