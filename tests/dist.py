"""Build wheel and sdist, and test them as a user would: `python -m tests.dist TESTS`, or `make dist`.

In an empty environment the wheel must import without the laboratory, run the README's first example, and say in one
line how to install the command line. The sdist's tests then run there against the installed wheel; they share the
compiled programs of other tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from flossing_lab.runs.process import cache_folder

ROOT = Path(__file__).parents[1]


def main(tests: list[str]):
    """Raise CalledProcessError or AssertionError at the first failure."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", str(here / "dist"), str(ROOT))
        (wheel,), (sdist,) = (here / "dist").glob("*.whl"), (here / "dist").glob("*.tar.gz")
        python = make_environment(here / "venv", str(wheel))
        example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
        assert example is not None
        run(python, "-c", example[1], cwd=here)
        command = subprocess.run([Path(python).parent / "flossing"], capture_output=True, text=True, check=False)
        assert command.returncode == 2, command
        assert command.stderr.count("\n") == 1, command.stderr
        assert "pip install 'flossing[lab]'" in command.stderr, command.stderr

        install(python, f"{wheel}[test-core]")
        with tarfile.open(sdist) as archive:
            archive.extractall(here / "files", filter="data")
        (files,) = (here / "files").iterdir()
        for package in ("flossing", "flossing_lab"):  # the tests shall find the installed ones
            shutil.rmtree(files / package)
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache_folder()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        run(python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *tests, cwd=files)


def make_environment(folder: Path, *requirements: str) -> str:
    """Create an environment with only these requirements; returns its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install(python, *requirements)
    return python


def install(python: str, *requirements: str):
    """Install into an environment, with the pinned versions."""
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    run(*pip, "-c", str(ROOT / "constraints.txt"), *requirements)


def run(*command: str, cwd: Path | None = None):
    """Run a command that must succeed."""
    print("+", " ".join(command[:6]).replace("\n", " ")[:150], flush=True)
    subprocess.run(command, check=True, cwd=cwd)


if __name__ == "__main__":
    main(sys.argv[1:])
