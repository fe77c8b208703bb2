"""The command line: `flossing train`, `train balance`, `spectrum`, `demo`, `sweep`, `collect`, `report`, `paper`.

The arguments of a run are the fields of its configuration. JAX is imported only when a command starts, so
`--help` responds immediately.
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
    # tyro reports arguments that it cannot parse. Config reports values that parse but are illegal, in one line.
    # So tyro fills a copy of each section whose types have no bounds.
    fields: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if name == "experiment":  # chosen by the command
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
        return Union[tuple(_plain_type(option) for option in get_args(kind))]  # noqa: UP007 (built at run time)
    return kind


_Arguments = tyro.conf.OmitArgPrefixes[_unchecked(Config)]
_BalanceArguments = tyro.conf.OmitArgPrefixes[_unchecked(BalanceConfig)]


@dataclasses.dataclass(frozen=True)
class Train:
    """Run the reference experiment, or the second one with `train balance`. The defaults are the released examples.

    The second experiment, a network that balances itself, has its own arguments: see `flossing train balance --help`.

    This writes a run directory: configuration, versions, metrics of every epoch, parameters, checkpoints, a picture.
    If a run was interrupted, the same command continues it, bit for bit as if it had never stopped.
    """

    config: _Arguments
    out: Path | None = None
    """Run directory. Default: runs/ plus a name built from task, delay, condition and seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """Run directory to continue, with its stored configuration. Of the other arguments, only CHECKPOINT-EVERY,
    SNAPSHOTS-EVERY and HALVINGS take effect."""

    def __call__(self):
        directory = _train(Config, self.config, self.out, self.overwrite, self.resume)
        if stopped := directory.info.get("stopped"):
            _say(f"ended at epoch {stopped['epoch']}: {stopped['reason']}")
        _say(f"accuracy over the last epochs {directory.metrics('training')['accuracy'][-100:].mean():.3f}")
        _say(f"run directory   {directory.path}\npicture         {directory.path / 'run.png'}")


@dataclasses.dataclass(frozen=True)
class TrainBalance:
    """Run the second experiment: a network that balances itself as it learns to track signals.

    N noisy rectified units inhibit one another. S readouts learn to reproduce S Ornstein-Uhlenbeck signals without
    delay. Training tightens the balance: the mean coupling grows severalfold, and S eigenvalues move far to the left of
    the others. With several signals, the neurons form S groups that mostly inhibit themselves. The defaults are the
    released example. 100,001 epochs take a few minutes on two cores; the groups appear after about 15,000.

    This writes a run directory, as `flossing train` does, and a film. If a run was interrupted, the same command
    continues it.
    """

    config: _BalanceArguments
    out: Path | None = None
    """Run directory. Default: runs/ plus a name built from the number of signals and the seed."""
    overwrite: bool = False
    """Replace a run that the directory already holds."""
    resume: Path | None = None
    """Run directory to continue, with its stored configuration. Of the other arguments, only CHECKPOINT-EVERY,
    SNAPSHOTS-EVERY and HALVINGS take effect."""
    film: bool = True
    """Write film.gif, a film of the weights and eigenvalues, from the snapshots."""

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
        _say("this run is finished; --overwrite reruns it")
        return directory
    with Display(Console()) as display:
        display.start("training")
        _cache()
        return run(config, out, overwrite=overwrite, on_progress=display.update)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Print and plot the Lyapunov spectrum of a saved run or of a freshly drawn network."""

    config: _Arguments
    run: Path | None = None
    """Run directory whose final network to measure. Its configuration replaces the other arguments."""
    first: int | None = None
    """Number of exponents, largest first. Default: all."""
    picture: Path = Path("spectrum.png")
    """Output file for the picture."""

    def __call__(self):
        from rich.console import Console

        from flossing_lab.runs.spectrum import show_spectrum

        config = _checked(Config, self.config)
        _cache()
        show_spectrum(config, self.run, self.first, self.picture, Console())


@dataclasses.dataclass(frozen=True)
class Demo:
    """Show how flossing lets a network learn a task that it cannot learn unaided: three conditions, one picture."""

    delay: int = 20
    """Basic lag of the temporal XOR; the lags are this and twice this."""
    epochs: int = 3001
    """Training epochs."""
    seed: int = 1
    """Value of all four seeds."""
    out: Path = Path("runs/demo")
    """Directory for runs, picture and summary. Replaces an earlier demo there."""

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
    """Run every configuration of a specification in parallel, each in its own directory.

    Repeating the command runs only what is missing. The exit code is 1 if a run failed.
    """

    spec: tyro.conf.Positional[Path]
    """TOML file: [base] holds what all runs share; each [[axes]] table is an axis along which they differ."""
    out: Path | None = None
    """Directory of the sweep. Default: sweeps/ plus the name of the specification."""
    workers: int | None = None
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
    out: Path | None = None
    """Zarr store to write; it may replace only a store of this command. Default: collected.zarr in the directory."""

    def __call__(self):
        from flossing_lab.sweeps.dataset import collect

        out = self.directory / "collected.zarr" if self.out is None else self.out
        dataset = collect(self.directory, out)
        print(f"dimensions   {', '.join(f'{name} {size}' for name, size in dataset.sizes.items())}\ndataset      {out}")


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page that shows runs, a comparison or a sweep; it opens offline."""

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, sweep directories, or folders that contain runs."""
    out: Path = Path("report.html")
    """Output file for the page."""

    def __call__(self):
        from flossing_lab.report import write_report

        if not self.directories:
            raise ValueError("directories must name at least one directory with runs, got none")
        print(f"page   {write_report(self.directories, self.out)}")


@dataclasses.dataclass(frozen=True)
class Paper:
    """Reproduce the paper, figure by figure: run what is missing, draw, and report which claims hold here.

    This writes a picture and a data file for each figure, and RESULTS.md. Repeating the command computes only what is
    missing. The exit code is 1 if a run failed.
    """

    scale: Literal["laptop", "paper", "tiny"] = "laptop"
    """laptop: half an hour on two cores; paper: 20 networks, all delays, 10,000 epochs, for a cluster; tiny: a few
    minutes, to check that everything works."""
    only: str | None = None
    """Figures to compute, such as fig1,fig3. Default: all figures of the paper. above_n, capacity, frontier,
    gradient_snr, larger and limits go beyond the paper and take tens of core-hours. Other figures are drawn from
    existing results."""
    out: Path = Path("paper-runs")
    """Directory for pictures, data, RESULTS.md, runs/ and calculations/."""
    workers: int | None = None
    """Number of worker processes, one thread each. Default: one per usable core."""
    scheduler: str | None = None
    """Address of a running dask scheduler, such as tcp://127.0.0.1:8786, to use its workers instead of our own."""

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
    # tyro prints a parse error in a box. The first paragraph holds the whole message, which fits into our one line.
    output, words = io.StringIO(), list(sys.argv[1:] if arguments is None else arguments)
    try:
        with contextlib.redirect_stderr(output):
            # `train` alone takes the arguments of the first experiment, which tyro's subcommands cannot express.
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
    lines = [line.strip("│ ") for line in output.getvalue().splitlines() if not line.startswith(("╭", "╰"))]
    paragraph = itertools.takewhile(lambda line: not line.startswith("─"), lines)
    _stop(f"{' '.join(paragraph)} ({_program(words)} --help tells what is legal)", 2)


def _program(words: Sequence[str]) -> str:
    # The command whose --help lists the arguments, as far as the words name one.
    known = 2 if words[:2] == ["train", "balance"] else int(words[:1] != [] and words[0] in COMMANDS)
    return " ".join(["flossing", *words[:known]])


_KEPT = "; what was done is kept, and the same command goes on from there"
_RESUMABLE = (Train, TrainBalance, Sweep, Paper)
_BAD_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors from a wrong path in the arguments, unlike those from a full disk."""


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
    # Keep compiled programs on disk from one command to the next.
    from flossing_lab.runs.process import cache_compilations

    cache_compilations()


def _stop(message: str, code: int) -> NoReturn:
    print(f"flossing: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
