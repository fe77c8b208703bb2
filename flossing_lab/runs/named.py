"""Tasks and cells by their names, the library's or a user's: made, and checked against their protocols."""

import contextlib
import functools
import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from flossing import cells
from flossing_lab.runs.catalogue import TASKS
from flossing_lab.runs.source import load, without_digest


def make_task(name: str, options: Mapping[str, Any], folder: str, *, argument: str = "task_options") -> Any:
    """The task of this name; ValueError if it lacks a member of its protocol. `argument` is what holds its options.

    Equal classes and options give one object, so that the runs of a sweep share compiled programs.
    """
    task_class = load(name, folder, kind="task", known=TASKS)
    return _task(task_class, without_digest(name), json.dumps(options, sort_keys=True), argument)


@functools.lru_cache(maxsize=32)
def _task(task_class: Any, name: str, options: str, argument: str) -> Any:
    task = _call(task_class, argument, "task", json.loads(options))
    missing = [member for member in ("channels", "outputs", "score") if not hasattr(task, member)]
    if missing or not callable(task):
        lacking = ", ".join(missing) or "__call__(key)"
        raise ValueError(f"task must follow the protocol flossing.tasks.Task, got {name} without {lacking}")
    return task


def make_network(
    name: str,
    options: Mapping[str, Any],
    folder: str,
    *,
    units: int,
    task: Any,
    key: Any,
    known: dict[str, Any],
    argument: str = "cell_options",
) -> cells.Network:
    """A cell of this name with a readout for the task; ValueError if it lacks a member of its protocol."""
    cell_key, readout_key = jax.random.split(key)
    make = load(name, folder, kind="cell", known=known)
    cell = _call(make, argument, "cell", {**options, "key": cell_key}, units, task.channels)
    name = without_digest(name)
    if not isinstance(cell, cells.Cell):
        missing = ", ".join(name for name in ("zeros", "output", "__call__") if not hasattr(cell, name))
        raise ValueError(f"cell must follow the protocol flossing.cells.Cell, got {name} without {missing}")
    if jax.tree_util.all_leaves([cell]):
        raise ValueError(f"cell must be a pytree, got {name}, which is none: derive it from equinox.Module")
    return cells.Network(cell, task.outputs, key=readout_key)


def check_fit(task: Any, model: cells.Network, task_name: str, cell_name: str) -> int:
    """The number of steps of the task; ValueError unless its trials, its scores and the network fit together.

    Everything is traced and nothing is computed; the arrays of `model` may be their shapes.
    """
    name = without_digest(task_name)
    with _located("task", name, task):
        trial = eqx.filter_eval_shape(task, jax.random.key(0))
    inputs = getattr(trial, "inputs", None)
    if inputs is None:
        got = f"{type(trial).__name__} from {name}"
        raise ValueError(f"task must return flossing.tasks.Trial(inputs, targets, mask), got a {got}")
    if getattr(inputs, "ndim", 0) != 2 or inputs.shape[1] != task.channels:
        legal = f"(steps, {task.channels}), since channels = {task.channels}"
        raise ValueError(f"task must draw inputs of shape {legal}, got {getattr(inputs, 'shape', inputs)} from {name}")
    with _located("cell", without_digest(cell_name), model.cell):
        outputs = eqx.filter_eval_shape(cells.Network.outputs, model, inputs)
    with _located("task", name, task):
        score = eqx.filter_eval_shape(task.score, outputs, trial)
    legal = "flossing.tasks.Score(loss, accuracy), two scalars, from score"
    for part in ("loss", "accuracy"):
        if not hasattr(score, part):
            raise ValueError(f"task must return {legal}, got a score of {name} without {part}")
        if shape := jnp.shape(getattr(score, part)):
            raise ValueError(f"task must return {legal}, got {part} of shape {shape} from {name}")
    return inputs.shape[0]


def _call(make: Any, argument: str, kind: str, options: Mapping[str, Any], *arguments: Any) -> Any:
    """`make(*arguments, **options)`; ValueError if it does not take them, or fails."""
    name, signature = getattr(make, "__name__", str(make)), inspect.signature(make)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        legal = ", ".join(known for known in list(signature.parameters)[len(arguments) :] if known != "key")
        raise ValueError(f"{argument} must name arguments of {name} ({legal or 'it has none'}): {error}") from error
    with _located(kind, name, make):
        return make(*arguments, **options)


@contextlib.contextmanager
def _located(kind: str, name: str, own: Any) -> Iterator[None]:
    """Turn an error in the code of a user into one line that names where it was raised."""
    try:
        yield
    except Exception as error:
        owner = own if inspect.isroutine(own) or inspect.isclass(own) else type(own)
        if owner.__module__.startswith("flossing.") and isinstance(error, ValueError):
            raise
        file = getattr(sys.modules.get(owner.__module__), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f" in line {lines[-1]} of {Path(str(file)).name}" if lines else ""
        text = " ".join(str(error).split()) or "no message"
        raise ValueError(f"{kind} must run, got {type(error).__name__} from {name}{place}: {text}") from error
