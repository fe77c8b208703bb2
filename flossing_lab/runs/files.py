"""Files that a killed process leaves whole: written beside their place, flushed to disk, renamed."""

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
    """Put `content` at `path`, or leave what was there: there is no state between."""
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


def remove_parts(folder: Path):
    """Remove what a process that was killed in the middle of `write_atomically` left."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any):
    """Write JSON; NaN and infinities become null and strings, since JSON has no word for them."""
    write_atomically(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, format: int) -> dict[str, Any]:
    """Read a JSON object of the layout `format`; ValueError, in one line, if it is none or of another layout."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold JSON, got an unreadable file: {error}") from None
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found != format:
        raise ValueError(
            f"{path} must have format {format}, which this version reads, got {found!r}; "
            "what another version wrote must be opened with that version, or run anew elsewhere"
        )
    return content


def write_arrays(path: Path, arrays: Mapping[str, Any]):
    """Write named arrays as NPZ."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote, all of it or those `names` that are there; nothing is unpickled.

    Raises ValueError, in one line, if the file is damaged.
    """
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is no ZIP archive")
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if names is None or name in names}
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} must hold arrays as NPZ, got a damaged file: {error}") from None


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
