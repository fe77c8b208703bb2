"""The directory with the paper's results: runs by digest, calculations by name, and the data of each figure.

runs/<digest>/             a run directory
calculations/<name>.npz    the arrays of a calculation, with a digest of its function and arguments
data/<name>.json           all data behind a figure's plot and claims
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flossing_lab.paper.calculations import digest_name, find_calculation
from flossing_lab.paper.contract import Calculation
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import plain, read_arrays, read_json, write_arrays, write_atomically
from flossing_lab.sweeps.spec import Spec
from flossing_lab.sweeps.sweep import has_finished
from flossing_lab.sweeps.workers import Job, begin_job

FORMAT = 2
"""Version of the layout of data/<name>.json."""

_DIGEST = "made_from"


class Folder:
    """The directory of a paper; files are read on demand."""

    def __init__(self, path: Path):
        self.path = path

    def runs(self, spec: Spec) -> list[tuple[dict[str, Any], RunDirectory]]:
        """The finished runs of `spec`, each with the values of its axes; missing runs are skipped."""
        return [
            (point.values, RunDirectory(self.path / "runs" / point.config.digest))
            for point in spec.points()
            if has_finished(self.path, point.config)
        ]

    def calculation(self, calculation: Calculation) -> dict[str, np.ndarray] | None:
        """The arrays of a calculation, or None if it was not run with these arguments or the file is damaged."""
        try:
            arrays = read_arrays(self._file(calculation))
        except (FileNotFoundError, ValueError):
            return None
        return arrays if str(arrays.pop(_DIGEST, "")) == digest(calculation) else None

    def job(self, calculation: Calculation) -> Job:
        """A calculation, for a worker."""
        file = self._file(calculation)
        file.parent.mkdir(parents=True, exist_ok=True)
        function, arguments = calculation.function, dict(calculation.arguments)
        return Job(_calculate, (function, arguments, str(file), digest(calculation)))

    def read_data(self, name: str) -> dict[str, Any] | None:
        """The content of data/<name>.json, or None if there is no such file; ValueError if it cannot be read."""
        file = self.path / "data" / f"{name}.json"
        if not file.is_file():
            return None
        return read_json(file, FORMAT)

    def write_data(self, name: str, content: dict[str, Any]):
        """Write data/<name>.json, with each list of numbers or words on one line."""
        (self.path / "data").mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain({"format": FORMAT, **content}), indent=1, allow_nan=False, ensure_ascii=False)
        text = re.sub(r"\[(?:[^][{}\"]|\"[\w-]*\")*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)
        write_atomically(self.path / "data" / f"{name}.json", (text + "\n").encode())

    def _file(self, calculation: Calculation) -> Path:
        return self.path / "calculations" / f"{calculation.name}.npz"


def digest(calculation: Calculation) -> str:
    """12 hexadecimal digits that identify a calculation's function and arguments."""
    text = json.dumps([digest_name(calculation.function), calculation.arguments], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def unique_by_name(calculations: Iterable[Calculation]) -> dict[str, Calculation]:
    """Calculations by name; ValueError if a name is not a legal file name, or is used for two."""
    found: dict[str, Calculation] = {}
    for calculation in calculations:
        name = calculation.name
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
            raise ValueError(f"name must be 1 to 100 letters, digits, -, _ and ., got {name!r}")
        if digest(found.setdefault(name, calculation)) != digest(calculation):
            raise ValueError(f"name must stand for one calculation, got two of name {name!r}")
    return found


def _calculate(function: str, arguments: dict[str, Any], file: str, made_from: str, on_progress: Any):
    # Runs in a worker. An earlier job may have set another precision.
    from flossing_lab.runs.process import configure_dtype

    begin_job(function)
    configure_dtype("float32")
    arrays = find_calculation(function)(**arguments)
    write_arrays(Path(file), {**arrays, _DIGEST: np.asarray(made_from)})
