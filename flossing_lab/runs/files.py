"""Atomic file writes, which a killed process cannot leave half-done: write a temporary file, flush it, rename it."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, content: bytes):
    """Write `content` to `path` completely, or leave the old file unchanged."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def remove_temporary_files(folder: Path):
    """Remove the temporary files of a process that was killed during `write_atomically`."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any):
    """Write JSON. NaN becomes null and infinities become strings, since JSON can represent neither."""
    write_atomically(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, format: int) -> dict[str, Any]:
    """Read a JSON object of layout version `format`; raises a one-line ValueError for anything else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold JSON, got an unreadable file: {error}") from None
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found != format:
        raise ValueError(
            f"{path} must have format {format}, which this version reads, got {found!r}; "
            "open files of another version with that version, or rerun in a new directory"
        )
    return content


def write_arrays(path: Path, arrays: Mapping[str, Any]):
    """Write named arrays as NPZ."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays that `write_arrays` wrote, all of them or those in `names` that exist, without pickle.

    Raises a one-line ValueError if the file is damaged.
    """
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is not a ZIP archive")
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if names is None or name in names}
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} must hold arrays as NPZ, got a damaged file: {error}") from None


def plain(value: Any) -> Any:
    """Convert a value to types that JSON can represent."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
