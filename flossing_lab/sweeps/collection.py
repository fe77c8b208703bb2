"""Collections of runs: find them, and find the fields in which they differ."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import read_json, write_json
from flossing_lab.runs.registry import config_class
from flossing_lab.runs.source import without_digest

SWEEP_FORMAT = 1
"""Version of the layout of sweep.json."""

ABSENT = "–"
"""The value of a field that an experiment does not have."""

_DIGEST = re.compile(r"[0-9a-f]{12}")


def find_runs(paths: Iterable[Path | str]) -> list[RunDirectory]:
    """The runs in `paths`, each a run directory, a sweep directory, or a folder that contains runs at any depth.

    For a sweep, these are the runs of its newest specification that have started. Raises ValueError, naming the path,
    if a path holds no run.
    """
    found: dict[Path, RunDirectory] = {}
    for path in map(Path, paths):
        if (path / "run.json").is_file():
            here = [path]
        elif (path / "sweep.json").is_file():
            here = [path / "runs" / run["digest"] for run in read_sweep(path)["runs"]]
        else:
            here = [file.parent for file in sorted(path.rglob("run.json"))]
        here = [place for place in here if (place / "run.json").is_file()]
        if not here:
            why = "holds none" if path.exists() else "does not exist"
            raise ValueError(f"directory must hold a run, got {str(path)!r}, which {why}")
        found |= {place.resolve(): RunDirectory(place) for place in here}
    return list(found.values())


def read_sweep(path: Path) -> dict[str, Any]:
    """The content of sweep.json: `name`, `axes`, and `runs`, each with its `digest` and the `values` of its axes."""
    file = path / "sweep.json"
    if not file.is_file():
        raise ValueError(f"sweep directory must hold sweep.json, got {str(path)!r}")
    content = read_json(file, SWEEP_FORMAT)
    runs = content.get("runs")
    # A digest becomes a folder name, so nothing else is legal.
    if not isinstance(runs, list) or not all(
        isinstance(run, dict) and isinstance(run.get("values"), dict) and _DIGEST.fullmatch(str(run.get("digest")))
        for run in runs
    ):
        raise ValueError(f"{file} must list runs, each with a digest of 12 hexadecimal digits and its values")
    return content


def write_sweep(path: Path, content: Mapping[str, Any]):
    """Write sweep.json."""
    write_json(path / "sweep.json", {"format": SWEEP_FORMAT, **content})


def axes_of(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """The fields in which configurations differ, each with its values in order of appearance.

    All seeds count as one field, `seed`, if they are equal within each configuration. With several experiments, the
    fields are `experiment` and those that differ within an experiment; the value is ABSENT where an experiment lacks
    the field.
    """
    flat = labels_of_all(configs)
    experiments = {values["experiment"] for values in flat}
    axes = {"experiment": [values["experiment"] for values in flat]} if len(experiments) > 1 else {}
    for name in dict.fromkeys(name for values in flat for name in values):
        for experiment in experiments:
            if len({values.get(name, ABSENT) for values in flat if values["experiment"] == experiment}) > 1:
                axes[name] = [values.get(name, ABSENT) for values in flat]
    return {name: list(dict.fromkeys(values)) for name, values in axes.items()}


def labels_of(config: RunConfig) -> dict[str, Any]:
    """The experiment and all fields that affect the result, with one `seed` instead of several if they are equal.

    The arguments in `task_options` and `cell_options` are labels of their own, see [`options_of`][].
    """
    values = config.values()
    labels: dict[str, Any] = {"experiment": config.experiment}
    for name, value in values.items():
        labels |= options_of(name, json.loads(value)) if name in OPTIONS else {name: value}
    seeds = [name for name in values if name.startswith("seed_")]
    if len({values[name] for name in seeds}) == 1:
        labels["seed"] = values[seeds[0]]
        for name in seeds:
            del labels[name]
    return labels


def labels_of_all(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """[`labels_of`][] each configuration; own files lose the digest of their content if they all have the same."""
    flat = [labels_of(config) for config in configs]
    for field in ("task", "cell"):
        versions: dict[str, set[str]] = {}
        for labels in flat:
            versions.setdefault(_without_digest(labels.get(field)), set()).add(str(labels.get(field)))
        for labels in flat:
            if len(versions[_without_digest(labels.get(field))]) == 1 and field in labels:
                labels[field] = _without_digest(labels[field])
    return flat


def _without_digest(value: Any) -> str:
    return without_digest(str(value))


OPTIONS = ("task_options", "cell_options")
"""The fields of own tasks and cells that hold arguments by name."""


def options_of(field: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in one of the `OPTIONS` as labels.

    Those of a task keep their names, unless a field of the configuration has it; those of a cell are `cell_NAME`.
    """
    taken, kind = config_class("own")().values(), field.removesuffix("_options")
    labels = {}
    for name, value in arguments.items():
        is_free = kind == "task" and name not in taken and not name.startswith(("seed", "experiment"))
        plain = value if isinstance(value, (str, int, float)) else json.dumps(value)  # lists have no hash
        labels[name if is_free else f"{kind}_{name}"] = plain
    return labels
