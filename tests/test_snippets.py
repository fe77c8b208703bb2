"""The snippets of the first page of the documentation run, and print what they promise."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPETS = sorted((ROOT / "docs" / "snippets").glob("*.py"))
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
README = [ast.dump(ast.parse(block)) for block in BLOCKS]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.stem)
def test_a_snippet_runs(snippet):
    text = snippet.read_text()
    if ast.dump(ast.parse(text)) in README:
        return  # test_project.py runs it
    if "torch" in text:
        pytest.importorskip("torch")
    text = text.replace("epochs=100", "epochs=3")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Spectrum(k=16: " in done.stdout
