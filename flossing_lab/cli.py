"""The command line: `flossing train`, `train balance`, `spectrum`, `diagnose`, `demo`, `sweep`, `report`, `paper`, ...

The arguments of a run are the fields of its configuration. JAX is imported only when a command starts, so
`--help` responds immediately.
"""

import _thread
import contextlib
import dataclasses
import importlib.metadata
import io
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro
from pydantic import ValidationError

from flossing_lab.comparison.command import Compare
from flossing_lab.paper.command import Paper
from flossing_lab.reference.config import Config
from flossing_lab.runs.command import OWN_DEFAULT, checked, network_arguments_of, resuming
from flossing_lab.runs.config import DEFAULT_EXPERIMENT, did_you_mean, explain_invalid
from flossing_lab.runs.registry import EXPERIMENTS, command_class
from flossing_lab.sweeps.command import Collect, Sweep


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Print and plot the Lyapunov spectrum of a saved run, of weights in a file, or of a freshly drawn network."""

    config: network_arguments_of(Config)  # pyright: ignore[reportInvalidTypeForm]
    """The settings of a freshly drawn network; not with --run or --weights."""
    run: Path | None = None
    """Run directory: its final network is measured, and its configuration replaces the other arguments."""
    weights: tuple[Path, ...] = ()
    """Weights of a trained network: torch, safetensors or npz, with PyTorch's names. Needs --inputs; not unpickled."""
    inputs: Path | None = None
    """For --weights: a .npy file with inputs (T, S) or (B, T, S) of the recurrent layer."""
    cell: Annotated[Literal["tanh", "relu", "gru", "lstm"] | None, OWN_DEFAULT] = None
    """For --weights: the kind of cell. Default: what the shapes imply."""
    module: str | None = None
    """For --weights: the recurrent module, such as encoder.rnn, in a model with several."""
    first: Annotated[int | None, OWN_DEFAULT] = None
    """Number of exponents, from the largest. Default: all."""
    plot: Path = Path("spectrum.png")
    """Output file for the plot."""

    def __call__(self):
        from rich.console import Console

        from flossing_lab.runs.spectrum import show_spectrum, show_weights

        config = checked(Config, self.config)
        _check_source(self, config, {"inputs": "a .npy file with inputs (T, S) of the layer"})
        _cache()
        if self.weights:
            options = {"kind": self.cell, "name": self.module, "first": self.first, "plot": self.plot}
            show_weights(self.weights, self.inputs, **options, console=Console())  # pyright: ignore[reportArgumentType]
            return
        show_spectrum(config, self.run, self.first, self.plot, Console())


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say what stands in the way of learning over a horizon, and what to do: one screen of text and one picture.

    Of a saved run, of weights in a file, or of a freshly drawn network.
    """

    config: network_arguments_of(Config)  # pyright: ignore[reportInvalidTypeForm]
    """The settings of a freshly drawn network; not with --run or --weights."""
    run: Path | None = None
    """Run directory: its final network is measured, and its configuration replaces the other arguments."""
    weights: Path | None = None
    """File of a trained network, as for flossing spectrum. Needs --inputs and --horizon."""
    inputs: Path | None = None
    """For --weights: a .npy file with inputs (T, S) of the recurrent layer, longer than the horizon."""
    cell: Annotated[Literal["tanh", "relu", "gru", "lstm"] | None, OWN_DEFAULT] = None
    """For --weights: the kind of cell. Default: what the shapes imply."""
    module: str | None = None
    """For --weights: the recurrent module, such as encoder.rnn, in a model with several."""
    horizon: Annotated[int | None, OWN_DEFAULT] = None
    """The longest lag of the task, in steps. Default: that of the task, if it has one (an attribute longest_lag)."""
    plot: Path = Path("diagnosis.png")
    """Output file for the picture."""

    def __call__(self):
        from flossing_lab.runs.diagnosis import diagnose_run, diagnose_weights

        config = checked(Config, self.config)
        needed = {"inputs": "a .npy file with inputs (T, S) of the layer", "horizon": "the longest lag, in steps"}
        _check_source(self, config, needed)
        _cache()
        if self.weights is None:
            diagnose_run(config, self.run, self.horizon, self.plot)
            return
        options = {"kind": self.cell, "name": self.module, "horizon": self.horizon, "plot": self.plot}
        diagnose_weights(self.weights, self.inputs, **options)  # pyright: ignore[reportArgumentType]


def _check_source(command: Spectrum | Diagnose, config: Any, needed: Mapping[str, str]):
    """Raise ValueError unless the network is either that of files of weights, with what these need, or another."""
    if not command.weights:
        if unused := [name for name in ("inputs", "cell", "module") if getattr(command, name)]:
            raise ValueError(f"{unused[0]} must come with --weights, got none")
        return
    if command.run is not None or Config().differences(config):
        raise ValueError("weights must come without --run and without the arguments of a fresh network")
    for name, legal in needed.items():
        if getattr(command, name) is None:
            raise ValueError(f"{name} must be given for weights: {legal}")


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train networks with and without flossing on one task, and compare them: a table, one sentence, one picture.

    `flossing demo` trains the network of the released code, also from a good initialisation without flossing;
    `flossing demo signed` trains one of excitatory and inhibitory units, for which no good initialisation is known.
    """

    network: tyro.conf.Positional[Literal["released", "signed"]] = "released"
    """released: the reference experiment; signed: a sparse network that obeys Dale's law."""
    delay: int = 20
    """Basic lag of the temporal XOR; the lags are this and twice this."""
    epochs: int = 3001
    """Training epochs."""
    seed: int = 1
    """Value of all seeds."""
    out: Annotated[Path | None, OWN_DEFAULT] = None
    """Directory for runs, plot and summary. Replaces an earlier demo there. Default: runs/demo or runs/demo-signed."""

    def __call__(self):
        from rich.console import Console

        if self.seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got seed={self.seed}")
        if self.network == "released":
            from flossing_lab.reference.demo import demo

            config = Config().with_values(delay=self.delay, epochs=self.epochs, seed=self.seed)
            _cache()
            demo(config, self.out or Path("runs/demo"), Console())
            return
        from flossing_lab.own.demo import signed_config, signed_demo

        config = signed_config(self.delay, self.epochs, self.seed)
        _cache()
        signed_demo(config, self.out or Path("runs/demo-signed"), Console())


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page that shows runs, a demo or a sweep; it opens offline."""

    directories: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")
    ]
    """Run directories, sweep directories, or folders that contain runs; at least one."""
    out: Path = Path("report.html")
    """Output file for the page."""

    def __call__(self):
        from flossing_lab.report import write_report

        if not self.directories:
            raise ValueError("directories must name at least one directory with runs, got none")
        print(f"page   {write_report(self.directories, self.out)}")


COMMANDS: dict[str, Callable] = {
    "train": command_class(DEFAULT_EXPERIMENT),
    "spectrum": Spectrum,
    "diagnose": Diagnose,
    "demo": Demo,
    "sweep": Sweep,
    "collect": Collect,
    "report": Report,
    "paper": Paper,
    "compare": Compare,
}


def _parse(arguments: Sequence[str] | None) -> Any:
    # tyro prints a parse error in a box. The first paragraph holds the whole message, which fits into our one line.
    output, words = io.StringIO(), list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    names_file = len(words) > 1 and not words[1].startswith("-") and (":" in words[1] or words[1].endswith(".py"))
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        words = words[:1]  # an unknown command is an error, also with --help
    if words[0] == "train" and names_file:
        words = ["train", "own", "--task", *words[1:]]  # a class of one's own, mine.py:MyTask
    try:
        with contextlib.redirect_stderr(output):
            # `train` alone takes the arguments of the reference experiment, which tyro's subcommands cannot express.
            named = _names_experiment(words)
            command = command_class(words[1] if named else DEFAULT_EXPERIMENT)
            default = resuming(command, words) if words[0] == "train" else None
            if named or default is not None:
                return tyro.cli(command, prog=_program(words), args=words[1 + named :], default=default)
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="flossing",
                description="Train recurrent networks over long horizons by controlling their Lyapunov exponents. "
                "--version prints the version.",
                args=words,
            )
    except SystemExit as end:
        if not end.code:
            raise
    lines = [line.strip("│| ") for line in output.getvalue().splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = [part for part in map(str.strip, re.split("[─-]{9,}", " ".join(lines))) if part]
    has_box = "╭" in output.getvalue()  # else, where only ASCII can be printed, the title of the box comes first
    text = paragraphs[0 if has_box or len(paragraphs) < 2 else 1]
    for raised, legal in _PARSED.items():
        text = re.sub(f"Error parsing (--[^:]*): {raised} ('.*')", rf"\1 must be {legal}, got \2", text)
    advice = _closest(words) or f"{_program(words)} --help lists the legal values"
    _stop(f"{text} ({advice})", 2)


_PARSED = {r"invalid literal for int\(\) with base 10:": "an integer", "could not convert string to float:": "a number"}
"""What Python says of text that is no number, and what is legal."""


def _closest(words: Sequence[str]) -> str | None:
    """`did you mean ...?`, for a command or a flag that is close to a legal one."""
    if words[0] not in COMMANDS:
        legal, given = [*COMMANDS], words[:1]
    elif words[0] == "train" and len(words) > 1 and not words[1].startswith("-") and words[1] not in EXPERIMENTS:
        return did_you_mean(words[1], EXPERIMENTS) or f"the experiments are {', '.join(EXPERIMENTS)}"
    else:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            _parse([*_program(words).split()[1:], "--help"])
        legal = re.findall(r"--[a-z0-9-]+", output.getvalue())
        given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for word in given:
        if word not in legal and (advice := did_you_mean(word, legal)):
            return advice
    return None


def _names_experiment(words: Sequence[str]) -> bool:
    return words[:1] == ["train"] and len(words) > 1 and words[1] in EXPERIMENTS


def _program(words: Sequence[str]) -> str:
    # The command whose --help lists the arguments, as far as the words name one.
    known = 2 if _names_experiment(words) else int(words[:1] != [] and words[0] in COMMANDS)
    return " ".join(["flossing", *words[:known]])


_KEPT = "; finished work is kept, and the same command continues from there"
_RESUMABLE = (*map(command_class, EXPERIMENTS), Sweep, Paper, Compare)
_BAD_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors from a wrong path in the arguments, unlike those from a full disk."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    if [*(sys.argv[1:] if arguments is None else arguments)] in (["--version"], ["-V"]):
        print(f"flossing {importlib.metadata.version('flossing')}")
        return
    command = _parse(arguments)
    try:
        with _interruptible():
            code = command()
    except ValidationError as error:
        _stop(explain_invalid(error), 2)
    except ValueError as error:
        _stop(str(error), 2)
    except BrokenPipeError:
        raise
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


@contextlib.contextmanager
def _interruptible():
    # Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of the garbage collector
    # (JAX registers one) or in a finaliser it is dropped, and Ctrl-C would do nothing. Raise it again, outside.
    before, timers = sys.unraisablehook, []

    def hook(unraisable: "sys.UnraisableHookArgs"):
        if unraisable.exc_type is KeyboardInterrupt:
            timers.append(threading.Timer(0.05, _thread.interrupt_main))
            timers[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


def _cache():
    # Keep compiled programs on disk from one command to the next.
    from flossing_lab.runs.process import cache_compilations

    cache_compilations()


def _stop(message: str, code: int) -> NoReturn:
    print(f"flossing: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
