"""The command of an experiment: its arguments, made from its configuration, and a run with its progress on screen."""

import functools
import itertools
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import tyro
from pydantic import BaseModel, Field, create_model

from flossing_lab.runs.config import RunConfig

OWN_DEFAULT = tyro.conf.arg(help_behavior_hint="")
"""Annotates an argument whose description says its default, so that `--help` does not add another."""

if TYPE_CHECKING:
    from flossing_lab.runs.directory import RunDirectory


def arguments_of(config: type[RunConfig]) -> Any:
    """The type from which tyro reads a configuration: one flag for each field."""
    return tyro.conf.OmitArgPrefixes[_arguments(config)]


def network_arguments_of(config: type[RunConfig]) -> Any:
    """The same without the sections that have no effect on a freshly drawn network and the inputs of its task."""
    without = {"training", "flossing", "term", "stopping", "safety"}
    return tyro.conf.OmitArgPrefixes[_unchecked(config, config.argument_notes, without)]


@functools.cache
def _arguments(config: type[RunConfig]) -> type[BaseModel]:
    return _unchecked(config, config.argument_notes)


def resuming(command: type, words: Sequence[str]) -> Any:
    """The command with the stored settings of the run that `words` resume as its defaults; None if they resume none.

    So a flag that is given is known by its value, also where it has the usual one.
    """
    resumed = [path for word, path in itertools.pairwise([*words, ""]) if word == "--resume"]
    resumed += [word.removeprefix("--resume=") for word in words if word.startswith("--resume=")]
    if not resumed:
        return None
    from flossing_lab.runs.directory import RunDirectory

    try:
        config = RunDirectory(Path(resumed[-1])).config
    except (ValueError, OSError):
        return None  # the command says what is wrong with it
    arguments = _arguments(type(config))
    fits = typing.get_type_hints(command)["config"] is arguments
    return command(config=arguments.model_validate(config.model_dump())) if fits else None


def checked(config: type[RunConfig], arguments: BaseModel) -> RunConfig:
    """The configuration that the arguments describe; pydantic's ValidationError for an illegal value."""
    return config.model_validate(arguments.model_dump())


def train(
    kind: type[RunConfig],
    arguments: BaseModel,
    out: Path | None,
    overwrite: bool,
    resume: Path | None,
    seed: int | None = None,
) -> "RunDirectory":
    """Run or continue one experiment, with its progress on screen, and return its directory.

    `seed`, if given, is the value of all seeds.
    """
    from rich.console import Console

    from flossing_lab.runs.console import Display
    from flossing_lab.runs.directory import RunDirectory
    from flossing_lab.runs.experiment import experiment_module
    from flossing_lab.runs.process import cache_compilations
    from flossing_lab.runs.run import run

    config = checked(kind, arguments)
    if seed is not None and resume is not None:
        raise ValueError(f"seed must be left out with resume, which continues the stored run, got seed={seed}")
    if seed is not None:
        given = [name for name in kind().differences(config) if name in config.model_dump()["seeds"]]
        if given:
            raise ValueError(f"seed must be left out where seeds are given one by one, got seed={seed} and {given[0]}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be an integer from 0 to {2**32 - 1}, got seed={seed}")
        config = config.with_values(seed=seed)
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
        config = _resumed(stored, config)
    if directory.has_finished(config) and not overwrite:
        say("this run is finished; --overwrite reruns it")
        return directory
    experiment_module(config).check(config)
    with Display(Console()) as display:
        display.start("training")
        cache_compilations()
        return run(config, out, overwrite=overwrite, lengthen=resume is not None, on_progress=display.update)


def _resumed(stored: RunConfig, given: RunConfig) -> RunConfig:
    """The stored configuration with what a resumed run may change: more epochs, and safety fields."""
    changed = {name: ours for name, (_, ours) in stored.differences(given).items()}
    epochs = changed.pop("epochs", stored.training.epochs)
    if changed:
        name = next(iter(changed))
        raise ValueError(
            f"{name} must be left out with resume, which continues the stored run, got {name}={changed[name]!r}; that "
            f"run has {name}={stored.values()[name]!r}"
        )
    if epochs < stored.training.epochs:
        raise ValueError(f"epochs must be at least the {stored.training.epochs} of the run, got epochs={epochs}")
    if epochs > stored.training.epochs and (reason := stored.keeps_its_length):
        raise ValueError(f"epochs must be the {stored.training.epochs} of the run, {reason}, got epochs={epochs}")
    safety = stored.safety.model_copy(update={name: value for name, value in given.safety if name != "folder"})
    return stored.with_values(epochs=epochs).model_copy(update={"safety": safety})


def say(text: str):
    """Print a line, without breaking it."""
    from rich.console import Console

    Console().print(text, highlight=False, soft_wrap=True)


def _unchecked(section: type[BaseModel], notes: Mapping[str, str], without: Collection[str] = ()) -> type[BaseModel]:
    # tyro reports arguments that it cannot parse. Config reports values that parse but are illegal, in one line.
    # So tyro fills a copy of each section whose types have no bounds.
    fields: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if name == "experiment" or name in without:  # the command chooses the experiment
            continue
        kind, default = _plain_type(info.annotation), info.default
        note = notes.get(name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind, note = _unchecked(kind, notes), None  # a section may have the name of a field
            default = kind()
        elif "Default:" in (info.description or ""):
            kind = Annotated[kind, OWN_DEFAULT]
        # In one line, which tyro breaks for the width of the terminal.
        description = " ".join(" ".join(filter(None, (info.description, note))).split())
        fields[name] = (kind, Field(default=default, description=description))
    return create_model(section.__name__, __doc__=section.__doc__, **fields)


def _plain_type(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        return get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(_plain_type(option) for option in get_args(kind))]  # noqa: UP007 (built at run time)
    return kind
