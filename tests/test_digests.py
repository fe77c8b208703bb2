"""The digests of the runs and calculations of the paper are those of version 0.1 (gradient_snr/tiny: of 0.2).

A run directory is found by its digest. If a digest changed, hundreds of hours of runs would start again.
"""

import hashlib
import json
from pathlib import Path

import pytest

from flossing_lab.paper import results, schedules
from flossing_lab.paper.figures import find_figures
from flossing_lab.reference.config import Config

FILE = Path(__file__).parent / "data" / "digests.json"
KEPT = json.loads(FILE.read_text("utf-8"))


def summary(name: str, scale: str) -> dict:
    figure = find_figures()[name]
    later = (*schedules.ONCE, "-tuned")  # added after version 0.1
    specs = [spec for spec in figure.specs(scale) if not spec.name.endswith(later)]
    runs = sorted(point.config.digest for spec in specs for point in spec.points())
    calculations = sorted(results.digest(each) for each in figure.calculations(scale))
    text = json.dumps([runs, calculations])
    return {
        "runs": len(runs),
        "calculations": len(calculations),
        "sha256": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


@pytest.mark.parametrize("key", KEPT)
def test_digests_are_those_of_the_first_version(key):
    assert summary(*key.split("/")) == KEPT[key]


def test_what_a_task_fills_in_changes_no_digest():
    """The reference call said in full is the same run."""
    plain = Config()
    assert plain.with_values(channels=1, first_scored=20).digest == plain.digest
    assert not plain.differences(plain.with_values(channels=1, first_scored=20))
    assert plain.with_values(first_scored=21).digest != plain.digest


def test_the_first_names_of_fields_are_still_read_and_digests_still_use_them():
    """Run directories of version 0.1 state them."""
    now = Config().with_values(threshold=1e-3, preflossing=7, interflossing=5)
    assert Config.model_validate({"flossing": {"share": 1e-3, "epochs_before": 7, "epochs_during": 5}}) == now
    assert now.digest == "9ff197c3e554"
