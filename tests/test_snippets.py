"""The snippets of the first page of the documentation run, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = sorted((Path(__file__).parents[1] / "docs" / "snippets").glob("*.py"))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.stem)
def test_a_snippet_runs(snippet):
    if "torch" in snippet.read_text():
        pytest.importorskip("torch")
    text = snippet.read_text().replace("epochs=100", "epochs=3")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Spectrum(k=16: " in done.stdout
