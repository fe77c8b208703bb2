"""Read TOML, with errors in one line. Imports neither JAX nor NumPy."""

import tomllib
from pathlib import Path
from typing import Any

MOST_LETTERS = 600
"""A longer message is truncated."""


def one_line(text: str) -> str:
    """A message without line breaks, truncated if it is very long."""
    text = " ".join(text.split())
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."


def read_toml(path: Path, name: str) -> dict[str, Any]:
    """Read a TOML file; raises a one-line ValueError, in which `name` is what the file should be."""
    try:
        if not path.is_file():
            found = "a directory" if path.is_dir() else "something else" if path.exists() else "a path where nothing is"
            raise ValueError(f"{name} must be a TOML file, got {found}")
        # Some editors begin a file with a byte order mark, which TOML does not allow.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} must be a TOML file: {error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name} must be UTF-8, got byte {error.object[error.start]:#04x} (line {line})") from None
    except RecursionError:
        raise ValueError(f"{name} must be tables of values, got some nested beyond measure") from None
    except OSError as error:
        raise ValueError(f"{name} must be a TOML file that can be read: {error.strerror}") from None
