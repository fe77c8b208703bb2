"""Where numbers come from: versions, machine and time, for run directories, the paper's data and benchmarks."""

import functools
import hashlib
import importlib.util
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("flossing", "jax", "jaxlib", "equinox", "optax", "numpy")


def versions(*more: str) -> dict[str, str]:
    """The versions of Python and of the packages that affect a result, and of `more`."""
    return {"python": platform.python_version(), **{name: version(name) for name in (*PACKAGES, *more)}}


@functools.cache
def code_digest() -> str:
    """A digest of the source files of this package and of the library, which tells versions in development apart."""
    specs = [importlib.util.find_spec(name) for name in ("flossing", "flossing_lab")]
    return digest_of(*(Path(spec.origin).parent for spec in specs if spec and spec.origin))


def digest_of(*packages: Path) -> str:
    """A digest of the names and contents of the source files in folders."""
    content = hashlib.sha256()
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            content.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
    return content.hexdigest()[:12]


def now() -> str:
    """The time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def provenance() -> dict[str, Any]:
    """Versions, device, platform and start time of a run; initialises JAX."""
    import jax

    return {
        "versions": versions(),
        "device": str(jax.devices()[0]),
        "platform": platform.platform(),
        "started": now(),
    }


def brief_provenance() -> dict[str, Any]:
    """A short version for data from many runs; does not initialise JAX."""
    packages = ("flossing", "jax", "numpy")
    return {**{name: version(name) for name in packages}, "machine": platform.machine(), "cores": os.cpu_count()}


def measured_on(packages: tuple[str, ...], cores: int) -> dict[str, Any]:
    """Date, processor, cores, load and versions of a timing; the version is None for a package not installed."""
    return {
        "measured": time.strftime("%Y-%m-%dT%H:%M+00:00", time.gmtime()),
        "processor": _processor(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
