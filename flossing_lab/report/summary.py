"""The text and tables of the page, all as plain text that the template escapes."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

import flossing
from flossing_lab.report.runs import SOLVED, Group, Run, label_of, quartiles, shown
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.plotting import LABELS
from flossing_lab.sweeps.collection import ABSENT

MOST_TROUBLES = 20
MOST_VALUES = 12
_STATUSES = ("finished", "running", "interrupted", "failed")


def describe(runs: Sequence[Run], name: str | None = None) -> dict[str, Any]:
    """Title and subtitle: what the runs have in common. `name` is that of their sweep."""
    tasks = {run.config.title for run in runs}
    counts = Counter(run.status for run in runs)
    statuses = sorted(counts, key=lambda status: _STATUSES.index(status) if status in _STATUSES else len(_STATUSES))
    task = tasks.pop() if len(tasks) == 1 else None
    said = [task] if task and name else []
    return {
        "title": name or task or f"{len(runs)} runs",
        "subtitle": "; ".join([*said, *_in_common([run.config for run in runs])]),
        "statuses": f"{_count(len(runs), 'run')}: " + ", ".join(f"{counts[status]} {status}" for status in statuses),
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "version": flossing.__version__,
    }


def list_problems(runs: Sequence[Run], damaged: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], int]:
    """The path and message of each problem, up to MOST_TROUBLES, and the number of problems not listed."""
    troubles = [(place, f"left out, since it cannot be read: {why}") for place, why in damaged]
    for run in runs:
        if "error" in run.info:
            troubles.append((str(run.directory.path), f"{run.status}: {run.info['error']}"))
        for note in run.info.get("halvings") or []:
            rate, epoch, reason = (note.get(key, "?") for key in ("learning_rate", "epoch", "reason"))
            text = f"continued with a learning rate of {rate} after training epoch {epoch}: {reason}"
            troubles.append((str(run.directory.path), text))
    return troubles[:MOST_TROUBLES], max(0, len(troubles) - MOST_TROUBLES)


def tabulate(axes: Sequence[str], groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The summary: its header, and one row for each group."""
    ks = {group.config.k for group in groups}
    last = f"λ{ks.pop()}" if len(ks) == 1 else "λk"
    columns: dict[str, Callable[[Group], str]] = {
        "runs": lambda group: str(len(group.runs)),
        "final accuracy": lambda group: _spread((run.final_accuracy for run in group.runs), ".3f"),
        "final loss": lambda group: _spread((run.final_loss for run in group.runs), ".3g"),
        "λ1 at the end": lambda group: _spread((run.exponent(0) for run in group.runs), "+.2f"),
        f"{last} at the end": lambda group: _spread((run.exponent(-1) for run in group.runs), "+.2f"),
        f"epochs to {SOLVED}": _epochs_to_solved,
        "seconds": lambda group: _spread((run.seconds for run in group.runs), ".0f").split()[0],
        "of these compiling": lambda group: _spread((run.compile_seconds for run in group.runs), ".0f").split()[0],
    }
    names = list(axes) or ["condition"]
    rows = []
    for group in groups:
        values = group.values or {"condition": group.config.condition}
        rows.append([_value(name, values[name]) for name in names] + [write(group) for write in columns.values()])
    return [*names, *columns], rows


def tabulate_configuration(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All fields of the configuration, those in which the runs differ first: name, value or values, meaning."""
    configs = [run.config.values() for run in runs]
    meanings = _meanings(runs)
    rows = []
    for name in dict.fromkeys(name for config in configs for name in config):
        values = list(dict.fromkeys(config.get(name) for config in configs))
        rows.append(
            {"name": name, "value": _list(values), "meaning": meanings.get(name, ""), "differs": len(values) > 1}
        )
    return sorted(rows, key=lambda row: not row["differs"])


def tabulate_versions(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The package versions and machines of the runs."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        machine = {name: run.info[name] for name in ("device", "platform") if name in run.info}
        for name, value in ((run.info.get("versions") or {}) | machine).items():
            found.setdefault(name, {})[str(value)] = None
    return [(name, _list(list(values))) for name, values in found.items()]


def _in_common(configs: Sequence[RunConfig]) -> Iterable[str]:
    kinds = {config.units_are for config in configs}
    kind = f"{found} " if len(kinds) == 1 and (found := kinds.pop()) else ""
    sentences = {
        "condition": LABELS.__getitem__,
        "units": f"{{}} {kind}units".format,
        "gain": "gain {}".format,
        "epochs": "{} training epochs".format,
        "batch": "{} sequences a batch".format,
        "k": "k = {} exponents".format,
        "window": "measured over {} steps".format,
        "dtype": "{}".format,
    }
    flat = [config.values() for config in configs]
    for name, sentence in sentences.items():
        values = {each.get(name) for each in flat}
        if len(values) == 1 and None not in values:
            yield sentence(*values)
    seeds = {tuple(config.seeds.model_dump().values()) for config in configs}
    (first, *others) = seeds
    if first:
        yield _count(len(seeds), "seed") if others else f"seed {_list(list(dict.fromkeys(first)))}"


def _epochs_to_solved(group: Group) -> str:
    reached = [run.solved for run in group.runs if np.isfinite(run.solved)]
    if not reached:
        return "not reached"
    share = f" ({len(reached)} of {len(group.runs)})" if len(reached) < len(group.runs) else ""
    return _spread(reached, ".0f") + share


def _spread(values: Iterable[float], form: str) -> str:
    # The median and, of several, the quartiles.
    present = np.array([value for value in values if not np.isnan(value)])
    if not len(present):
        return "–"
    lower, median, upper = (_number(value, form) for value in quartiles(present))
    return f"{median} [{lower}, {upper}]" if len(present) > 1 else median


def _number(value: float, form: str) -> str:
    return format(value, form).replace("-", "−").replace("inf", "∞")


def _value(axis: str, value: Any) -> str:
    return (label_of({axis: value}) or ABSENT) if axis == "condition" else shown(value)


def _list(values: Sequence[Any]) -> str:
    more = f", … ({len(values)} values)" if len(values) > MOST_VALUES else ""
    return ", ".join(map(shown, values[:MOST_VALUES])) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _meanings(runs: Sequence[Run]) -> dict[str, str]:
    fields = {}
    for kind in {type(run.config) for run in runs}:
        fields |= kind.model_fields
        for section in kind.model_fields.values():
            fields |= getattr(section.annotation, "model_fields", {})
    return {name: " ".join((field.description or "").split()) for name, field in fields.items()}
