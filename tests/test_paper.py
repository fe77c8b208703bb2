"""The `paper` command at the smallest scale, interrupted and restarted; and the verdicts."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flossing_lab.cli import main
from flossing_lab.paper import make, results
from flossing_lab.paper.analysis.measures import by_task, epochs_to_solve, groups, of_task, quartiles
from flossing_lab.paper.contract import Calculation
from flossing_lab.paper.figures import find_figures
from flossing_lab.paper.results import Folder, unique_by_name
from flossing_lab.paper.results_page import NOT_JUDGED
from flossing_lab.paper.scales import SIZES
from flossing_lab.runs.directory import RunDirectory

ROOT = Path(__file__).parent.parent
RUN_FIGURES = ("fig3", "fig4", *(f"supplement_{name}" for name in ("k", "order", "orthogonal", "time", "window")))


def paper(out, *arguments, code=0) -> str:
    """The output of `flossing paper --scale tiny` in a process of its own."""
    words = [sys.executable, "-m", "flossing_lab.cli", "paper", "--scale", "tiny", "--out", out, *arguments]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(out.parent / "xla"), "COLUMNS": "300"}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | cache)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("paper") / "out"
    return out, paper(out)


def states(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def without_times(file: Path) -> str:
    """The data of a figure without the seconds that its runs took."""
    return re.sub(r',?\s*"seconds": \[[^]]*\]', "", file.read_text("utf-8"))


@pytest.mark.slow
def test_one_figure_is_made(tmp_path):
    """The other figures are reported as missing."""
    said = paper(tmp_path / "out", "--only", "supplement_window")
    folder, figure = Folder(tmp_path / "out"), find_figures()["supplement_window"]
    content, page = folder.read_data("supplement_window"), (tmp_path / "out" / "RESULTS.md").read_text("utf-8")
    assert content["runs"] == {"made": 4, "wanted": 4}
    assert content["missing"] == []
    assert "4 of 4 finished" in said
    assert f"![{figure.TITLE}](supplement_window.png)" in page
    assert "Scale tiny: 4 of 4 runs." in page and "Not run.\n" in page
    assert (tmp_path / "out" / "supplement_window.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_whole_paper_is_made(made):
    out, said = made
    assert "paper at scale tiny: " in said
    assert "0 finished before" in said
    assert "100% done" in said
    page = (out / "RESULTS.md").read_text("utf-8")
    for name in [name for name, figure in find_figures().items() if figure.IN_PAPER]:
        content = json.loads((out / "data" / f"{name}.json").read_text("utf-8"))
        for kind in ("runs", "calculations"):
            assert content[kind]["made"] == content[kind]["wanted"], content["missing"]
        assert len(json.dumps(content)) < 100_000
        assert (out / f"{name}.png").stat().st_size > 5000
        assert f"![{find_figures()[name].TITLE}]({name}.png)" in page
        for claim in find_figures()[name].claims(content["data"]):
            assert f"| {claim.n} | **{NOT_JUDGED}** |" in page
            assert claim.found.split("|")[0] in page
    assert "- fig" not in page
    others = {"runs", "calculations", "data", "RESULTS.md", ".lock"}
    drawn = {path.stem for path in out.iterdir() if path.name not in others}
    # A figure that is not of the paper is drawn too if it shares runs with one that is.
    shared = {name for name in drawn if not find_figures()[name].IN_PAPER}
    assert drawn - shared == {name for name, figure in find_figures().items() if figure.IN_PAPER}
    assert all(json.loads((out / "data" / f"{name}.json").read_text("utf-8"))["runs"]["made"] for name in shared)


@pytest.mark.slow
def test_what_is_missing_is_made_and_nothing_else(made, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "out")
    shutil.copytree(made[0].parent / "xla", tmp_path / "xla")
    lost, stopped = [run.path for _, run in Folder(out).runs(find_figures()["fig3"].specs("tiny")[0])][:2]
    before = states(out / "runs") | states(out / "calculations")
    shutil.rmtree(lost)
    info = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps(info | {"status": "running"}))  # as a killed run leaves it
    assert "2 of 2 finished" in paper(out, "--only", "fig3,fig4")
    after = states(out / "runs") | states(out / "calculations")
    assert {path for path in before if before[path] != after[path]} <= {
        path for path in before if path.is_relative_to(lost) or path.is_relative_to(stopped)
    }
    assert RunDirectory(stopped).info["resumed"]
    assert RunDirectory(lost).info["status"] == "finished"
    assert without_times(out / "data" / "fig3.json") == without_times(made[0] / "data" / "fig3.json")


@pytest.mark.slow
def test_without_its_runs_a_figure_says_so_and_one_left_out_keeps_its_data(made, tmp_path):
    folder = Folder(tmp_path)
    shutil.copytree(made[0] / "data", tmp_path / "data")
    figure, figures = find_figures()["fig3"], find_figures()
    make.keep_data(folder, figure, "tiny", chosen=False)
    make.write_page(folder, figures)
    kept = (tmp_path / "RESULTS.md").read_text("utf-8")
    assert kept == (made[0] / "RESULTS.md").read_text("utf-8")  # plots and page need no runs
    assert (tmp_path / "fig3.png").is_file()
    shutil.copytree(made[0] / "runs", tmp_path / "runs")
    shutil.rmtree(next(run.path for _, run in Folder(tmp_path).runs(figure.specs("tiny")[1])))
    make.keep_data(folder, figure, "tiny", chosen=True)
    shutil.rmtree(tmp_path / "runs")
    make.keep_data(folder, find_figures()["fig4"], "tiny", chosen=True)
    (tmp_path / "data" / "supplement_k.json").unlink()
    make.write_page(folder, figures)
    page = (tmp_path / "RESULTS.md").read_text("utf-8")
    assert "Scale tiny: 7 of 8 runs." in page
    assert "- fig3-temporal_xor: delay=2, condition=none, seed 1\n" in page
    assert "Scale tiny: 0 of 12 runs." in page
    assert "- fig4-spatial_xor: all 6 runs\n" in page
    assert "(fig4.png)" not in page
    assert "\n| supplement_k | How many exponents to floss | **not run** | 0 |\n" in page
    assert {claim.verdict for claim in figures["fig4"].claims(folder.read_data("fig4")["data"])} == {"not run"}


@pytest.mark.slow  # test_cli.py interrupts a single run
def test_ctrl_c_keeps_what_was_done(tmp_path):
    words = ["paper", "--scale", "tiny", "--only", "fig3", "--out", tmp_path / "out", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flossing_lab.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("dashboard"):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and said.startswith("flossing: interrupted; finished work is kept"), said
    assert not (tmp_path / "out" / "RESULTS.md").exists()


def test_help_does_not_import_jax():
    code = "import sys\nfrom flossing_lab.cli import main\ntry: main(['paper', '--help'])\n"
    code += "finally: assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--only" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "fig3,fig9"], "only must name figures of fig1, fig2, fig2_training, .*, got 'fig9'"),
        (["--only", ""], "only must name figures of .*, got ''"),
        (["--scale", "desktop"], "desktop"),
        (["--workers", "0"], "workers must be at least 1, and left out with scheduler, got workers=0"),
        (["--out", str(ROOT)], "out must be new, empty or of a paper, got .*, which holds"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["paper", *arguments])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.count("\n") == 1
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", SIZES)
def test_runs_of_each_scale(scale):
    specs = [spec for name in RUN_FIGURES for spec in find_figures()[name].specs(scale)]
    digests = [point.config.digest for spec in specs for point in spec.points()]
    assert len(set(digests)) < len(digests)  # figures share runs
    assert scale != "laptop" or len(set(digests)) <= 180


def test_workers_are_at_different_kinds_of_runs():
    points = find_figures()["fig4"].specs("laptop")[0].points()
    (ordered,) = [make.side_by_side([point.config for point in points], 2)]
    kinds = [config.with_values(seed=0).digest for config in ordered]
    assert sorted(config.digest for config in ordered) == sorted(point.config.digest for point in points)
    assert kinds[0] == kinds[2] == kinds[4]
    assert kinds[1] == kinds[3] == kinds[5]
    assert kinds[0] != kinds[1]


def double(values: list) -> dict[str, np.ndarray]:
    return {"doubled": 2 * np.asarray(values)}


def test_a_calculation_is_made_anew_when_its_arguments_change(tmp_path, monkeypatch):
    monkeypatch.setattr("flossing_lab.runs.process.configure_dtype", lambda dtype: None)
    monkeypatch.setattr(results, "begin_job", lambda kind: None)
    monkeypatch.setattr(results, "find_calculation", lambda name: double)
    folder, one = Folder(tmp_path), Calculation("one", "double", {"values": [1, 2]})
    assert folder.calculation(one) is None
    job = folder.job(one)
    job.function(*job.arguments, None)
    np.testing.assert_array_equal(folder.calculation(one)["doubled"], [2, 4])
    assert folder.calculation(one).keys() == {"doubled"}
    assert folder.calculation(one._replace(arguments={"values": [1, 3]})) is None
    assert folder.calculation(one._replace(function="triple")) is None
    (tmp_path / "calculations" / "one.npz").write_bytes(b"PK")
    assert folder.calculation(one) is None
    with pytest.raises(ValueError, match="name must stand for one calculation, got two of name 'one'"):
        unique_by_name([one, one._replace(arguments={})])
    with pytest.raises(ValueError, match="name must be 1 to 100 letters, .* got '../one'"):
        unique_by_name([one._replace(name="../one")])


class FakeRun(RunDirectory):
    """A run whose accuracy jumps from 0.5 to 1 after `jump` of 400 epochs."""

    def __init__(self, config, jump):
        self._config, self.jump = config, jump

    @property
    def config(self):
        return self._config

    @property
    def info(self):
        return {"seconds": 12.3456789}

    def metrics(self, kind, names=None):
        epoch = np.arange(1, 401 if kind == "training" else 501)
        return {
            "epoch": epoch,
            "accuracy": 0.5 + 0.5 * (epoch > self.jump),
            "gradient_norm/x0": 10.0**-self.config.seeds.seed_network + 0 * epoch,
        }


def fake_results(jumps: dict[str, list[int]]):
    class Fake:
        def runs(self, spec):
            return [
                (point.values, FakeRun(point.config, jumps[point.values["condition"]][seed - 1]))
                for point in spec.points()
                if (seed := point.values["seed"]) <= len(jumps[point.values["condition"]])
            ]

        def calculation(self, calculation):
            return None

    return Fake()


def test_what_is_taken_from_runs():
    (_, spec) = find_figures()["fig3"].specs("laptop")
    fake = fake_results({"none": [400, 400, 400], "before": [50, 100]})
    rows = {(row["d"], row["condition"]): row for row in groups(fake, spec)}
    assert rows.keys() == {(d, condition) for d in (20, 30, 40, 60) for condition in ("none", "before")}
    assert rows[40, "none"]["final_accuracy"] == [0.5, 0.5, 0.5]
    assert rows[40, "none"]["seed"] == [1, 2, 3]
    # 23 of 25 epochs at 1 and two at 0.5 make 0.96; 22 would make 0.94.
    assert rows[40, "before"]["epochs_to_solve"] == [73, 123]
    assert rows[40, "none"]["epochs_to_solve"] == [np.inf] * 3
    assert rows[40, "before"]["flossed_steps"] == [500 * 55] * 2
    assert rows[40, "before"]["seconds"] == [12.346] * 2
    all_rows, (none, before) = of_task(by_task(fake, [spec], {"temporal_xor": 20}), "temporal_xor")
    assert len(all_rows) == 8
    assert none["d"] == before["d"] == 40
    assert none["first_gradient"] == [0.1, 0.01, 0.001]
    assert [len(row["curve"]) for row in (none, before)] == [3, 2]
    assert all(len(each["epoch"]) <= 120 and "seconds" not in each for each in before["curve"])
    assert [each["accuracy"][-1] for each in before["curve"]] == [1, 1]
    assert [each["gradient"][0] for each in none["curve"]] == none["first_gradient"]
    assert of_task(all_rows, "copy") == ([], [])


def test_a_network_that_starts_well_has_not_solved_its_task():
    lucky = np.where(np.arange(100) < 3, 1.0, 0.5)
    assert epochs_to_solve(np.arange(1, 101), lucky) == np.inf


def test_quartiles_of_curves_that_end_at_different_epochs():
    curves = [{"epoch": [0, 4], "y": [1, 1]}, {"epoch": [0, 2], "y": [0, 2]}, {"epoch": [0, 1, 2], "y": [9, 9, 9]}]
    found = quartiles(curves, "epoch", "y")
    np.testing.assert_allclose(found["x"], [0, 1, 2, 4])
    np.testing.assert_allclose(found["middle"], [1, 1, 2, 2])
    np.testing.assert_allclose(found["low"], [0.5, 1, 1.5, 1.5])
    np.testing.assert_allclose(found["high"], [5, 5, 5.5, 5.5])


def test_the_committed_results_follow_from_the_committed_data():
    folder, figures = Folder(ROOT / "paper"), find_figures()
    contents = {name: content for name in figures if (content := folder.read_data(name)) is not None}
    assert contents
    assert make.page(figures, contents) == (ROOT / "paper" / "RESULTS.md").read_text("utf-8")
    for name, content in contents.items():
        if content["runs"]["made"] + content["calculations"]["made"]:
            assert figures[name].draw(content["data"]).axes
            assert (ROOT / "paper" / f"{name}.png").is_file()
