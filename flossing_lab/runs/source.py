"""Classes of your own: found by file, by package, or by entry point. Only files that you name are executed."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

DIGITS = 12
_DIGEST = re.compile(rf"(?<=\w)@[0-9a-f]{{{DIGITS}}}$")


def is_file(name: str) -> bool:
    """Whether a name is that of a class in a file, `mine.py:MyTask`."""
    return without_digest(name).rpartition(":")[0].endswith(".py")


def without_digest(name: str) -> str:
    """`mine.py:MyTask` of `mine.py:MyTask@0123456789ab`."""
    return _DIGEST.sub("", name)


def with_digest(name: str, folder: str) -> str:
    """A name completed by the digest of its file; a name that has one is kept. ValueError if there is no such file."""
    if _DIGEST.search(name):
        return name
    return f"{name}@{_digest(_path(name, folder))}"


def load(name: str, folder: str, *, kind: str, known: dict[str, Any]) -> Any:
    """The class that a name stands for; ValueError in one line if it cannot be loaded. `kind` is "task" or "cell"."""
    plain = without_digest(name)
    if plain in known:
        return known[plain]
    if is_file(name):
        return _attribute(_module(name, folder, kind), plain.rpartition(":")[2], kind)
    package, _, attribute = plain.partition(":")
    if attribute:
        try:
            module = importlib.import_module(package)
        except Exception as error:
            raise ValueError(f"{kind} must be importable, got {name!r}: {error!r}") from error
        return _attribute(module, attribute, kind)
    for entry in importlib.metadata.entry_points(group=f"flossing.{kind}s", name=plain):
        try:
            return entry.load()
        except Exception as error:
            raise ValueError(f"{kind} must be an entry point that can be loaded, got {name!r}: {error!r}") from error
    if plain.endswith(".py"):
        raise ValueError(f"{kind} must name a class of the file, {plain}:MyClass, got {plain!r}")
    legal = f"{', '.join(known)}, a class in a file, mine.py:MyClass, or an entry point of flossing.{kind}s"
    raise ValueError(f"{kind} must be one of {legal}, got {kind}={plain!r}")


def _module(name: str, folder: str, kind: str) -> Any:
    path, said = _path(name, folder), _DIGEST.search(name)
    if said and _digest(path) != said[0][1:]:
        raise ValueError(f"{kind} must be the one that the run was made with, but {path} has changed since")
    unique = f"flossing_own_{path.stem}_{_digest(path)}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[unique] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # its neighbours, as for a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[unique]
        raise ValueError(f"{kind} must be in a file that can be executed, got {path}: {error!r}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _attribute(module: Any, name: str, kind: str) -> Any:
    found = getattr(module, name, None)
    if not callable(found):
        legal = ", ".join(key for key, value in vars(module).items() if isinstance(value, type)) or "none"
        where = getattr(module, "__file__", None) or module.__name__
        raise ValueError(f"{kind} must be a class of {where} ({legal}), got {name!r}")
    return found


def _path(name: str, folder: str) -> Path:
    path = Path(folder) / without_digest(name).rpartition(":")[0]
    if not path.is_file():
        raise ValueError(f"{without_digest(name)} must be in a file that exists, got {path}")
    return path.resolve()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
