"""A run directory: what is in it, and how it gets there so that a killed run leaves nothing half-written.

    run.json          configuration, versions, device, status, summary
    metrics/*.npz     one file a chunk of epochs, `training-00000001.npz` from epoch 1 on
    parameters.npz    the parameters after the last chunk, by name; plain arrays, no pickle
    run.png           the picture

Every file is written beside its place, flushed to disk and renamed. NPZ files are read with pickle forbidden.
"""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from flossing.experiment.config import Config, explain_invalid

FORMAT = 1
"""Version of the layout."""


def write_atomically(path: Path, content: bytes):
    """Put `content` at `path`, or leave what was there: there is no state between."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any):
    """Write JSON; NaN and infinities become null and strings, since JSON has no word for them."""
    write_atomically(path, (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, Any]):
    """Write named arrays as NPZ."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


class RunDirectory:
    """One run on disk. Opening reads nothing: everything is read when asked for."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        path = self.path / "run.json"
        if not path.is_file():
            raise ValueError(f"run directory must hold run.json, got {str(self.path)!r}")
        try:
            info = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} must hold JSON, got an unreadable file: {error}") from None
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            found = info.get("format") if isinstance(info, dict) else type(info).__name__
            raise ValueError(f"{path} must have format {FORMAT}, which this version reads, got {found!r}")
        return info

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        try:
            return Config.model_validate(self.info.get("config"))
        except ValidationError as error:
            raise ValueError(f"{self.path / 'run.json'}: {explain_invalid(error)}") from None

    def metrics(self, kind: str) -> dict[str, np.ndarray]:
        """The metrics of all epochs of one kind, `"training"` or `"flossing"`; empty if there were none."""
        chunks = [read_arrays(path) for path in sorted((self.path / "metrics").glob(f"{kind}-*.npz"))]
        names = chunks[0] if chunks else {}
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters after the last chunk, by name (`network.J`, `x0`, ...)."""
        path = self.path / "parameters.npz"
        if not path.is_file():
            raise ValueError(f"run directory must hold parameters.npz, got {str(self.path)!r}, which has none yet")
        return read_arrays(path)

    def create(self, *, overwrite: bool = False):
        """Make the directory; an existing run in it is an error, or is removed if `overwrite`."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out must be a directory, got {str(self.path)!r}, which is a file")
        if (self.path / "run.json").exists():
            if not overwrite:
                raise ValueError(f"out must not hold a run already, got {str(self.path)!r}; --overwrite replaces it")
            self._remove_run()
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"out must be a new or an empty directory, got {str(self.path)!r}, which holds other files"
            )
        try:
            (self.path / "metrics").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"out must be a directory that can be made, got {str(self.path)!r}: {error}") from None

    def write_info(self, info: Mapping[str, Any]):
        """Write run.json."""
        write_json(self.path / "run.json", {"format": FORMAT, **info})

    def write_metrics(self, kind: str, first: int, arrays: Mapping[str, Any]):
        """Write one chunk of metrics that begins with epoch `first`."""
        write_arrays(self.path / "metrics" / f"{kind}-{first:08d}.npz", arrays)

    def write_parameters(self, arrays: Mapping[str, Any]):
        """Write the parameters."""
        write_arrays(self.path / "parameters.npz", arrays)

    def _remove_run(self):
        # Only what a run writes, and run.json last: a directory is never emptied of what is not ours.
        for path in [*(self.path / "metrics").glob("*.npz"), self.path / "parameters.npz", self.path / "run.png"]:
            path.unlink(missing_ok=True)
        (self.path / "run.json").unlink()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
