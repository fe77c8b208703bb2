"""The project's promises about itself."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flossing

ROOT = Path(__file__).parent.parent


def test_files_are_small_enough_to_read():
    files = [file for room in ("flossing", "flossing_lab", "tests", "verification", "benchmarks", "docs")
             for file in (ROOT / room).rglob("*.py")]  # fmt: skip
    long = {str(file): lines for file in files if (lines := file.read_text().count("\n")) > 400}
    assert len(files) > 200 and not long


def test_constraints_hold_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    assert "torch==2.13.0" in lines


def test_versions_agree():
    version = flossing.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    heading = "Unreleased" if ".dev" in version else version
    assert f"## [{heading}]" in (ROOT / "CHANGELOG.md").read_text()


def test_messages_name_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [file.read_text() for room in ("flossing", "flossing_lab") for file in (ROOT / room).rglob("*.py")]
    named = set(re.findall(r"flossing\[([a-z-]+)\]['`]", "".join(sources)))
    assert named and named <= set(extras)


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:  # as a user runs it: in its own process, with JAX's default settings; a few steps of training
        block = block.replace("range(800)", "range(3)").replace("preflossing=150", "preflossing=5")
        block = block.replace("epochs=100", "epochs=3")
        done = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["", ".cells", ".flows", ".losses", ".plots", ".pytorch", ".schedules", ".tasks"])
def test_public_functions_are_documented(room):
    module = importlib.import_module(f"flossing{room}")
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    ours = {name: value for name in names if _is_ours(value := getattr(module, name))}
    assert ours
    for name, value in ours.items():
        assert value.__doc__ and len(value.__doc__.strip()) > 10, name


def _is_ours(value):
    return callable(value) and getattr(value, "__module__", "").startswith("flossing")


def test_fences_of_the_pages_stand_alone():
    """A closing fence at the end of a line of text closes nothing, and the page swallows what follows."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        lines = page.read_text("utf-8").splitlines()
        assert [line for line in lines if "```" in line.lstrip().lstrip("`")] == [], page.name
        assert sum(line.lstrip().startswith("```") for line in lines) % 2 == 0, page.name
