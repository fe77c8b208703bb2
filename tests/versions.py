"""Core tests on the lowest or newest versions that pyproject.toml allows: `python -m tests.versions floor TESTS`.

uv resolves the versions and installs them into an environment of its own, with the package index that pip uses.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTION = {"floor": "lowest-direct", "newest": "highest"}


def main(which: str, tests: list[str]) -> int:
    """The exit code of the tests."""
    uv, index = Path(sys.executable).parent / "uv", pip_index()
    environment = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True, env=environment)
        install = [uv, "pip", "install", "--quiet", "--python", python, "--resolution", RESOLUTION[which]]
        subprocess.run([*install, f"{ROOT}[test-core]"], check=True, env=environment)
        subprocess.run([uv, "pip", "list", "--python", python], check=True, env=environment)
        command = [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def pip_index() -> str | None:
    """The index that pip is configured to use, if it is not the public one."""
    found = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True)
    return found.stdout.decode().strip() or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
