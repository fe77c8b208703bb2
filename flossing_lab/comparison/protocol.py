"""A trial: networks, drawn or fixed, each trained in every arm. Its protocol is a TOML file; imports no JAX.

    [settings]                        of every run
    [tasks.NAME]                      a task, its epochs, and from which value on it counts as solved; a longer task may
                                      take the best draws of a shorter one (settings_of)
    [draws]                           the range of each setting: a list, or { low, high } for log-uniform numbers
    [networks.NAME]                   a cell, how many draws, and which settings vary; without draws it is fixed
    [arms.NAME]                       how networks are flossed
    runs_of = ["short", "term"]       directories of other protocols; their runs with equal settings serve here, too
    reference = [NETWORK, ARM]        with which all others are compared; otherwise arms are compared in pairs of draws
    [seconds.TASK.NETWORK]            of one epoch of training and of flossing, from which equal cost follows

A draw gives the same network, batches and settings to all arms, so the arms are compared in pairs.
"""

import hashlib
import itertools
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from flossing_lab.comparison.sections import TrialArm, TrialNetwork, TrialSettings, TrialTask
from flossing_lab.runs.config import PositiveReal, Real, Section, did_you_mean
from flossing_lab.runs.source import is_file, with_digest
from flossing_lab.runs.toml_file import one_line, read_toml

OF_TRAINING = ("rate", "clip", "weight")
"""Drawn settings of training; all others are arguments of the cell."""

MOST_ARMS = 4
"""Arms that are compared in pairs, a colour each."""

AT_A_TIME = 8
"""Draws of a cell of the table that run one after another; they share compiled programs."""


class TrialRun(NamedTuple):
    """One run: the arm of a draw of a network on a task. The best draws run again, with seeds from 1 on.

    A fixed network has the draw 0.
    """

    task: str
    network: str
    draw: int
    arm: str
    seed: int = 0

    @property
    def name(self) -> str:
        """A name for its file."""
        again = f"-seed{self.seed}" if self.seed else ""
        return f"{self.task}-{self.network.replace(' ', '-')}-{self.draw:03d}-{self.arm}{again}"


class Trial(Section):
    """A whole trial."""

    title: str
    """In words."""
    settings: TrialSettings = TrialSettings()
    tasks: dict[str, TrialTask]
    draws: dict[str, Any] = Field(default_factory=dict)
    networks: dict[str, TrialNetwork]
    arms: dict[str, TrialArm]
    reference: tuple[str, str] | None = None
    """A network and its arm, with which all others are compared; without it the arms are compared in pairs."""
    runs_of: str | tuple[str, ...] = ()
    """Directories of other protocols, beside this one; their runs serve here, too, where their settings are equal."""
    seconds: dict[str, dict[str, tuple[PositiveReal, Real]]] = Field(default_factory=dict)
    """By task and network: of one epoch of training, and of flossing; needed for runs."""
    folder: str = ""
    """Where files of your own are: that of the protocol."""

    _drawn: dict[str, list[dict[str, Any]]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Trial":
        if self.is_fixed and not self.settings.again:
            raise ValueError("again must be at least 1 for fixed networks, got again=0: nothing would run")
        if not self.is_fixed and any(arm.epochs for arm in self.arms.values()):
            raise ValueError("epochs of an arm must be left out where networks are drawn: they follow from its cost")
        for name, kind in self.networks.items():
            if unknown := set(kind.arms or ()) - set(self.arms):
                raise ValueError(f"arms of {name} must be among {', '.join(self.arms)}, got {sorted(unknown)[0]!r}")
            if kind.penalty is not None and "weight" not in kind.vary:
                raise ValueError(f"vary of {name} must include weight, that of its penalty, got {list(kind.vary)}")
            if not kind.draws and not self.is_fixed:
                raise ValueError(f"draws of {name} must be at least 1 where other networks are drawn, got draws=0")
            if kind.penalty is not None and any(self.arms[arm].orthogonality for arm in kind.arms or self.arms):
                raise ValueError(f"arms of {name}, which has a penalty, must be without orthogonality")
            self.drawn(name)
            for task, of in self.seconds.items():
                flosses = any(self.arms[arm].flosses for arm in kind.arms or self.arms)
                if name in of and (of[name][1] < 0 or (flosses and not of[name][1])):
                    raise ValueError(f"seconds of {task} {name} must be positive, got {of[name][1]} for flossing")
        for name, task in self.tasks.items():
            if task.settings_of is not None and not self.settings.again:
                raise ValueError(f"again must be at least 1 for settings_of, got again=0: {name} would never run")
            if task.settings_of is not None and task.settings_of not in self.drawn_tasks:
                known = ", ".join(self.drawn_tasks)
                raise ValueError(f"settings_of of {name} must be a task with draws ({known}), got {task.settings_of!r}")
        self._check_names()
        if not self.is_fixed and self.reference is None and len(self.arms) > MOST_ARMS:
            raise ValueError(f"arms must be at most {MOST_ARMS} without a reference, got {len(self.arms)}")
        if self.reference is not None:
            network, arm = self.reference
            if network not in self.networks or arm not in (self.networks[network].arms or self.arms):
                raise ValueError(f"reference must be a network and one of its arms, got {list(self.reference)}")
        return self

    def _check_names(self):
        """Raise ValueError unless the names of tasks, networks and arms make a file name of their own for each run."""
        for kind, names in (("tasks", self.tasks), ("networks", self.networks), ("arms", self.arms)):
            for name in names:
                if not re.fullmatch(r"[\w][\w .,()+-]*", name):
                    raise ValueError(f"names of {kind} must be letters, digits, spaces and .,()+-, got {name!r}")
        cells = itertools.product(self.tasks, self.networks, self.arms)
        found: dict[str, tuple[str, str, str]] = {}
        for task, network, arm in cells:
            file = TrialRun(task, network, 1, arm).name
            if (other := found.setdefault(file, (task, network, arm))) != (task, network, arm):
                raise ValueError(f"names must differ in the files of their runs, got {file} for {other} and {arm}")

    def label(self, arm: str) -> str:
        """An arm in words."""
        return arm if self.arms[arm].flosses or self.arms[arm].orthogonality else "no flossing"

    def comparisons(self) -> "list[Trial]":
        """The trial with two arms at a time, each arm with all later ones. Costs are no longer those of the whole."""
        return [
            self.model_copy(update={"arms": {name: self.arms[name] for name in both}})
            for both in itertools.combinations(self.arms, 2)
        ]

    def in_arms(self, arms: Sequence[str]) -> list[str]:
        """The networks that run in all of these arms."""
        return [name for name, kind in self.networks.items() if {*arms} <= {*(kind.arms or self.arms)}]

    @property
    def is_fixed(self) -> bool:
        """Whether the networks are fixed, and run with seeds alone."""
        return not any(kind.draws for kind in self.networks.values())

    @property
    def drawn_tasks(self) -> list[str]:
        """The tasks on which all draws run."""
        return [name for name, task in self.tasks.items() if task.settings_of is None]

    def drawn(self, network: str) -> list[dict[str, Any]]:
        """The settings of all draws of a network, always the same."""
        if network not in self._drawn:
            self._drawn[network] = self._draw_settings(network)
        return self._drawn[network]

    def _draw_settings(self, network: str) -> list[dict[str, Any]]:
        kind = self.networks[network]
        rng = np.random.default_rng([self.settings.seed, zlib.crc32(network.encode())])
        ranges = {name: (f"draws.{name}", among) for name, among in self.draws.items()}
        ranges |= {name: (f"networks.{network}.ranges.{name}", among) for name, among in kind.ranges.items()}
        if unknown := [name for name in kind.vary if name not in ranges]:
            legal = f"names of [draws] or its own ranges ({', '.join(ranges)})"
            raise ValueError(f"networks.{network}.vary must be {legal}, got {unknown[0]!r}")
        return [{name: _draw(rng, *ranges[name]) for name in kind.vary} for _ in range(kind.draws)]

    def drawn_by(self, run: TrialRun) -> dict[str, Any]:
        """The drawn settings of a run; none of a fixed network."""
        return self.drawn(run.network)[run.draw - 1] if run.draw else {}

    def runs(self) -> list[TrialRun]:
        """All runs, a few draws at a time, so that a trial that was stopped has a table of all tasks and networks."""
        if self.is_fixed:
            cells = itertools.product(self.tasks, self.networks, self.arms, range(1, self.settings.again + 1))
            return [
                TrialRun(task, name, 0, arm, seed)
                for task, name, arm, seed in cells
                if arm in (self.networks[name].arms or self.arms)
            ]
        most = max(kind.draws for kind in self.networks.values())
        found = []
        for first in range(1, most + 1, AT_A_TIME):
            some = range(first, first + AT_A_TIME)
            every = itertools.product(self.drawn_tasks, self.networks, self.arms, some)
            found += [
                TrialRun(task, name, i, arm)
                for task, name, arm, i in every
                if i <= self.networks[name].draws and arm in (self.networks[name].arms or self.arms)
            ]
        return found

    def epochs(self, task: str, network: str, arm: str) -> int:
        """Training epochs of an arm: those of the task, and as many more as cost what other arms spend on flossing."""
        if self.is_fixed:
            return self.arms[arm].epochs or self.tasks[task].epochs
        training, flossing, total = self.costs(task, network, arm)
        if self.tasks[task].seconds is not None or self.arms[arm].term is not None:
            return max(1, round((total - self.arms[arm].before * flossing) / training))
        return self.tasks[task].epochs + round((self._most - self.arms[arm].before) * flossing / training)

    def budget(self, task: str, network: str, arm: str) -> tuple[float, float, float] | None:
        """For an adaptive arm, which flosses as often as it needs to: seconds of an epoch of training, of flossing, and
        of the whole run. None for other arms, whose epochs are known before."""
        if self.is_fixed or self.arms[arm].threshold is None:
            return None
        return self.costs(task, network, arm)

    @property
    def _most(self) -> int:
        return max(arm.before for arm in self.arms.values())

    def costs(self, task: str, network: str, arm: str) -> tuple[float, float, float]:
        """Seconds of an epoch of training, its term included, of an epoch of flossing, and of a whole run."""
        of, (training, flossing) = self.tasks[task], self.seconds[task][network]
        total = of.epochs * training + self._most * flossing if of.seconds is None else of.seconds
        with_term = self.arms[arm].term is not None
        return training + with_term * flossing / self.arms[arm].term_every, flossing, total

    def recorded(self, run: TrialRun) -> dict[str, Any]:
        """The settings of a run, which its file holds; a run with others is made again."""
        kind = self.networks[run.network]
        budget = self.budget(run.task, run.network, run.arm)
        more = {name: value for name in ("penalty", "horizon") if (value := getattr(kind, name)) is not None}
        return json.loads(
            json.dumps(
                {
                    "settings": self.settings.model_dump(exclude={"seed", "again"}),
                    "task": self.tasks[run.task].model_dump(include={"task", "options", "stop"}),
                    "cell": kind.model_dump(include={"cell", "options"}) | more,
                    "drawn": self.drawn_by(run),
                    "arm": self.arms[run.arm].recorded(),
                    "epochs": self.epochs(run.task, run.network, run.arm),
                    "seed": run.seed or 1000 + run.draw,
                    **({} if budget is None else {"budget": budget}),
                }
            )
        )


def read_trial(file: Path) -> Trial:
    """The trial that a TOML file describes; ValueError, in one line, for an illegal one."""
    try:
        content, folder = read_toml(file, "protocol"), str(file.absolute().parent)
        # As JSON, since only there a list is a tuple where types are strict.
        text = json.dumps({"folder": folder} | _with_digests(content, folder), default=str)
        return Trial.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(one_line(f"{file}: {'; '.join(map(_explain, error.errors(include_url=False)))}")) from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _explain(problem: Any) -> str:
    """One error of pydantic: the entry, what is legal, and the value given."""
    *table, entry = map(str, problem["loc"] or [""])
    where, message, given = ".".join([*table, entry]), problem["msg"], problem["input"]
    if problem["type"] == "value_error":
        return message.removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where} must be given"
    if problem["type"] == "extra_forbidden":
        kind = {"settings": TrialSettings, "tasks": TrialTask, "networks": TrialNetwork, "arms": TrialArm}
        known = [name for name in kind.get(table[0] if table else "", Trial).model_fields if name != "folder"]
        return f"{where} must not be given; {did_you_mean(entry, known) or 'legal are ' + ', '.join(known)}"
    legal = message.removeprefix("Input should ").replace("a valid tuple", "a list").replace("a valid array", "a list")
    return f"{where} must {legal}, got {given!r}" if legal != message else f"{where}: {message}, got {given!r}"


def _with_digests(content: dict[str, Any], folder: str) -> dict[str, Any]:
    """The content with names of files, mine.py:MyCell, completed by the digest of the file."""
    for section, field in (("tasks", "task"), ("networks", "cell")):
        found = content.get(section)
        for entry in found.values() if isinstance(found, dict) else ():
            if isinstance(entry, dict) and isinstance(name := entry.get(field), str) and is_file(name):
                entry[field] = with_digest(name, folder)
    return content


def digest(trial: Trial, run: TrialRun) -> str:
    """12 hexadecimal digits that identify the settings of a run."""
    return hashlib.sha256(json.dumps(trial.recorded(run), sort_keys=True).encode()).hexdigest()[:12]


def _draw(rng: np.random.Generator, where: str, among: Any) -> Any:
    if isinstance(among, list) and among:
        return among[int(rng.integers(len(among)))]
    if isinstance(among, Mapping) and set(among) == {"low", "high"} and _is_range(among["low"], among["high"]):
        low, high = np.log([among["low"], among["high"]])
        return float(f"{np.exp(rng.uniform(low, high)):.4g}")
    raise ValueError(f"{where} must be a list of values or {{ low, high }} with 0 < low <= high, got {among!r}")


def _is_range(low: Any, high: Any) -> bool:
    are_numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
    return are_numbers and 0 < low <= high < math.inf
