"""The example of docs/pytorch.md runs: forty lines of ordinary PyTorch, three for flossing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pytorch_settings import torch as torch

SCRIPT = Path(__file__).parents[1] / "examples" / "delayed_copy_torch.py"


def test_it_is_forty_lines_and_three():
    code = SCRIPT.read_text().split('"""', 2)[2]
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    flossing = [line for line in lines if "flt" in line or "adam" in line]
    assert len(flossing) == 3
    assert len(lines) - 3 <= 40


@pytest.mark.slow  # docs/pytorch.md runs it, too
def test_it_runs(tmp_path):
    """With few epochs: both networks start near chance, and are printed in order."""
    short = SCRIPT.read_text().replace("EPOCHS = 40, 100, 32, 64, 800", "EPOCHS = 40, 60, 8, 16, 2")
    script = tmp_path / "example.py"
    script.write_text(short.replace("k=48, epochs=200", "k=4, epochs=2"))
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed, first, second = done.stdout.splitlines()
    assert changed.startswith("floss changes weight_ih_l0 (")
    assert first.startswith("as it comes: accuracy 0.")
    assert second.startswith("flossed first: accuracy 0.")
    assert first.endswith("over the last 100 of 2 epochs; chance is 0.5")
