"""The examples of docs/networks.md that newcomers copy: they run unchanged and are short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
SECTIONS = ("An Equinox cell", "A Flax cell", "A dictionary of parameters and a step", "Many sequences at once")


def examples():
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S))
    return {name: re.search(r"```\{code-cell\} ipython3\n(.*?)```", sections[name], re.S).group(1) for name in SECTIONS}


def test_each_is_short():
    for name, code in examples().items():
        lines = [line for line in code.splitlines() if line.strip() and not re.match(r"import|from", line)]
        assert len(lines) < 15, name


@pytest.mark.slow
def test_they_run_and_floss(tmp_path):
    """Run in the page's order. In each, the first exponent ends nearer to zero than it started."""
    script = tmp_path / "examples.py"
    script.write_text("\n".join(examples().values()))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[float(x) for x in row.split()] for row in re.findall(r"\[([^\]]+)\]", done.stdout)]
    pairs = list(zip(rows[0:6:2], rows[1:6:2], strict=True))
    assert len(rows) == 8
    assert len(pairs) == 3
    for before, after in pairs:
        assert len(before) == 4
        assert abs(after[0]) < abs(before[0])
