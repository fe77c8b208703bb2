"""The report on runs that are unfinished, old, damaged or failed."""

import subprocess
import sys

import pytest

from flossing_lab.report import write_report
from flossing_lab.runs.directory import RunDirectory
from tests.test_report import TINY, contents, write_run


def test_a_run_that_has_just_begun_says_what_is_not_there_yet(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with directory.opened():
        directory.write_info({"status": "running", "config": TINY.model_dump()})
    page = contents(tmp_path)
    assert page["data"]["curves"] == "No training epoch has been completed yet."
    panels = page["data"]["details"][0]
    assert all(isinstance(panel, str) and panel.endswith(".") for name, panel in panels.items() if name != "colour")
    assert page["rows"][0][2:] == ["–", "–", "–", "–", "not reached", "–", "–"]
    assert "1 running" in write_report([tmp_path], tmp_path / "report.html").read_text()


def test_an_old_run_without_snapshots_and_horizons(tmp_path):
    write_run(tmp_path / "run", TINY.with_values(condition="none"), detailed=False)
    panels = contents(tmp_path)["data"]["details"][0]
    assert panels["network"] == "This run holds no snapshots of its weights."
    assert panels["horizons"].startswith("This run holds no condition numbers")
    assert panels["squares"] == "This network is not flossed."
    assert panels["gradients"] == "No gradient has been computed yet."
    assert isinstance(panels["exponents"], dict)


def test_damaged_runs_are_named_and_left_out(tmp_path):
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad", TINY.with_values(delay=3))
    (bad.path / "metrics" / "training-00000050.npz").write_bytes(b"PK not an archive")
    other = write_run(tmp_path / "other", TINY.with_values(delay=4))
    (other.path / "run.json").write_text('{"format": 1, "config": {"task": 7}}')
    page = contents(tmp_path)
    assert len(page["rows"]) == 1
    troubles = dict(page["troubles"])
    assert "training-00000050.npz" in troubles[str(bad.path)]
    assert "left out" in troubles[str(bad.path)]
    assert str(other.path) in troubles


def test_a_damaged_panel_does_not_take_the_others_with_it(tmp_path):
    run = write_run(tmp_path / "run")
    next(iter(run.snapshots.values())).write_bytes(b"no archive")
    (run.path / "horizons.npz").write_bytes(b"PK")
    panels = contents(tmp_path)["data"]["details"][0]
    assert panels["network"].startswith("This cannot be shown: ")
    assert "damaged" in panels["network"]
    assert "horizons.npz" in panels["horizons"]
    assert isinstance(panels["gradients"], dict)


def test_if_nothing_can_be_read_there_is_no_report(tmp_path):
    run = write_run(tmp_path / "bad")
    (run.path / "metrics" / "flossing-00000001.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"report must be of runs that can be read, got '.*bad': .*") as error:
        write_report([tmp_path], tmp_path / "report.html")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_failures_are_counted_and_told(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", TINY.with_values(delay=3), status="failed", error="loss ceased to be finite")
    page = contents(tmp_path)
    assert page["statuses"] == "2 runs: 1 finished, 1 failed"
    assert page["troubles"] == [(str(tmp_path / "b"), "failed: loss ceased to be finite")]


def test_without_the_extra_a_person_is_told_what_to_install(tmp_path, monkeypatch):
    write_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ValueError, match=r"^flossing report needs the extra \[lab\]: pip install 'flossing\[lab\]'$"):
        write_report([tmp_path], tmp_path / "report.html")


def test_a_report_imports_no_jax(tmp_path):
    write_run(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from flossing_lab.report import write_report\n"
        "write_report([sys.argv[1]], Path(sys.argv[2])); assert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path), str(tmp_path / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Temporal XOR" in (tmp_path / "report.html").read_text()
