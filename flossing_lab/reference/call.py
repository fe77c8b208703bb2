"""The call of the released Julia code, `trainRNNflossing(N, E, Ef, ...)`, as a configuration. Imports no JAX.

The code: https://github.com/RainerEngelken/GradientFlossing, `GradientFlossing_ExampleCode.jl` at commit a4492d5.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from flossing_lab.reference.config import JULIA_NAMES, Config

NAMES = ("N", "E", "Ef", "Ei", "Ep", "Ni", "B", "S", "T", "Tp", "Ti", "sIC", "sIn", "sNet", "sONS", "lr", "b1", "b2",
         "IC", "g", "gbar", "I1", "delay", "wsS", "wsM", "wrS", "wrM", "bS", "bM", "nLE", "task", "intype",
         "Lwnt")  # fmt: skip
"""The 33 arguments in the order of the call."""

REALS = {"lr", "b1", "b2", "g", "gbar", "I1", "wsS", "wsM", "wrS", "wrM", "bS", "bM", "intype", "Lwnt"}
"""The arguments that need not be integers."""

RECURRENT = {1: "gaussian", 3: "lapack"}
"""Recurrent weights by IC."""

CALLED = {
    *JULIA_NAMES,
    "condition",
    "k",
    "task",
    "order",
    "recurrent",
    "history",
    "first_scored",
    "channels",
    "transient",
}
"""The fields that a call sets."""

DERIVED = {"flossing_rate", "threshold"}
"""Fields whose defaults follow from others that a call sets."""

FUNCTION = "trainRNNflossing"

_NAMED = JULIA_NAMES | {"k": "nLE", "order": "task"}
_FIELDS = {julia: field for field, julia in JULIA_NAMES.items()}
_LITERAL = re.compile(r"[+-]?(\d[\d_]*)(\.\d*)?([eEf][+-]?\d+)?|[+-]?\.\d+([eEf][+-]?\d+)?")
_ASSIGNMENT = re.compile(r"^\s*(\w+)\s*=\s*([^=].*?)\s*$")


class Call(NamedTuple):
    """What a call means: the configuration, and what a reader of the call should know about it."""

    config: Config
    notes: list[str]


def read_call(text: str) -> Call:
    """The configuration that a call of the released code describes.

    `text`: the 33 numbers, separated by commas, as Julia writes them (`0.001f0`), or the whole call, also with names
    that lines before it define: `delay=10; seed=1; trainRNNflossing(80, ..., seed, ...)`.

    Raises ValueError, in one line and by its Julia name, for an argument that the released code or this library does
    not accept.

        config = read_call("trainRNNflossing(80, 3001, 100, 500, 500, 2, 16, ...)").config
    """
    given = _numbers(text)
    values, notes = _values(given)
    try:
        config = Config().with_values(**values)
    except ValidationError as error:
        raise ValueError(_in_julia(error)) from None
    if config.task.steps <= config.longest_lag:
        legal = f"greater than the longest lag of {config.longest_lag} steps, as in the released code"
        raise ValueError(f"T must be {legal}, got T={config.task.steps}")
    if (best := best_accuracy(config)) < 1:
        notes.append(f"no accuracy can exceed {best:.4f}: some scored targets depend on a bit before the first input")
    return Call(config, notes)


def best_accuracy(config: Config) -> float:
    """The largest expected accuracy. Targets that depend on a bit before the first input can only be guessed."""
    lag, task = config.longest_lag, config.task
    first = max(lag, 1) if task.first_scored is None else task.first_scored
    known = lag - task.delay if task.history == "zero" else 0
    guessed = max(0, lag - max(first, known + 1) + 1)
    return 1 - 0.5 * guessed / (task.steps - first + 1)


def flags(config: Config) -> str:
    """The command line of a configuration: `flossing train`, with the flags that differ from the released example."""
    words = ["flossing train"]
    for name, (_, value) in Config().differences(config).items():
        if name in DERIVED and getattr(config.flossing, name) is None:
            continue
        words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def _numbers(text: str) -> dict[str, int | float]:
    """The 33 arguments by name."""
    text = re.sub(r"#[^\n]*", "", text)
    before, found, rest = text.rpartition(f"{FUNCTION}(")
    if found:
        inside, closed, _ = rest.partition(")")
        if not closed:
            raise ValueError(f"call must end with a closing parenthesis, got {text!r}")
    else:
        before, inside = "", text
    known = dict(_definitions(before))
    words = [word.strip() for word in inside.split(",")]
    if len(words) != len(NAMES):
        raise ValueError(f"call must have the {len(NAMES)} arguments {', '.join(NAMES)}, got {len(words)}")
    return {name: _number(name, known.get(word, word)) for name, word in zip(NAMES, words, strict=True)}


def _definitions(text: str):
    """The definitions in the lines before a call, as `(name, text of the value)`."""
    for line in re.split(r"[;\n]", text):
        if match := _ASSIGNMENT.match(line):
            yield match[1], match[2]


def _number(name: str, word: str) -> int | float:
    if not _LITERAL.fullmatch(word):
        kind = "a number" if name in REALS else "an integer"
        raise ValueError(f"{name} must be {kind} as Julia writes it, such as 10 or 0.001f0, got {word!r}")
    plain = word.replace("_", "").replace("f", "e")
    if name in REALS:
        value = float(plain)
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {word!r}")
        return value
    if not re.fullmatch(r"[+-]?\d+", plain):
        raise ValueError(f"{name} must be an integer, got {word!r}")
    return int(plain)


def _values(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of the configuration that the arguments set, and notes."""
    values = {_FIELDS[name]: value for name, value in given.items() if name in _FIELDS}
    notes: list[str] = []
    if given["S"] != 1:
        raise ValueError(f"S must be 1, since the released code has targets for one channel, got S={given['S']}; the "
                         "paper's task of three channels is --task spatial_xor")  # fmt: skip
    if given["IC"] not in RECURRENT:
        raise ValueError(f"IC must be 1 (Gaussian) or 3 (orthogonal), got IC={given['IC']}")
    if given["lr"] <= 0:
        raise ValueError(f"lr must be above 0, got lr={given['lr']}: with 0 nothing learns, and `flossing spectrum` "
                         "measures the network as drawn")  # fmt: skip
    if given["nLE"] < 0:
        raise ValueError(f"nLE must be an integer of at least 0, got nLE={given['nLE']}")
    values["recurrent"] = RECURRENT[given["IC"]]
    if values["recurrent"] == "lapack":
        notes.append("IC = 3 keeps the signs of LAPACK's Q, as the released code does; --recurrent orthogonal draws "
                     "uniformly")  # fmt: skip
    values |= _task(given, notes)
    values |= _flossing(given, notes)
    return values, notes


def _task(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    number, delay = given["task"], given["delay"]
    if number == 0:
        return {"task": "copy"}
    if delay < 1:
        raise ValueError(f"delay must be at least 1 for an XOR, got delay={delay}")
    values = {"task": "temporal_xor", "order": abs(number)}
    if number < 2:
        return values
    notes.append(f"task = {number} is scored from step {2 * delay} on, and its targets are 0 up to step "
                 f"{delay * (2**number - 1)}; task = {-number}, or --history drawn, has no such targets")  # fmt: skip
    return {**values, "first_scored": 2 * delay, "history": "zero"}


def _flossing(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    before, during = given["Ep"] > 0, given["Ni"] > 0 and given["Ei"] > 0
    if given["nLE"] == 0:
        before = during = False
        notes.append("nLE = 0 flosses nothing")
    names = {(True, True): "before_and_during", (True, False): "before", (False, True): "during"}
    values: dict[str, Any] = {"condition": names.get((before, during), "none"), "k": given["nLE"] or None}
    window = given["Tp"]
    transient = 10 + math.ceil(window / 10)
    if window <= transient:
        raise ValueError(f"Tp must be at least 13, which leaves a step after the transient of 10 + Tp / 10, got "
                         f"Tp={window}")  # fmt: skip
    if transient > window // 2:
        values["transient"] = transient
        notes.append(f"the transient is {transient} of {window} steps, as in the released code; by default it is at "
                     "most half of the window")  # fmt: skip
    return values


def _in_julia(error: ValidationError) -> str:
    """pydantic's report, with the Julia name of the field."""
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error":
        field = str((problem["loc"] or ("",))[:2][-1])
        name, legal = _NAMED.get(field, field), message.removeprefix("Input should ")
        return f"{name} must {legal}, got {name}={problem['input']!r}"
    for field, name in _NAMED.items():
        message = re.sub(rf"\b{field}(?= must |=)", name, message)
    return message
