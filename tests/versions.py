"""Core tests on the lowest or newest versions that pyproject.toml allows: `python -m tests.versions floor TESTS`.

uv resolves the versions and installs them into an environment of its own. UV_DEFAULT_INDEX sets another package index.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTION = {"floor": "lowest-direct", "newest": "highest"}


def main(which: str, tests: list[str]) -> int:
    """The exit code of the tests."""
    uv = Path(sys.executable).parent / "uv"
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", python, "--resolution", RESOLUTION[which]]
        subprocess.run([*install, f"{ROOT}[test-core]"], check=True)
        subprocess.run([uv, "pip", "list", "--python", python], check=True)
        command = [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
