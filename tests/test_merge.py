"""Data of runs whose directories are gone: retained, extended, and not run again."""

import json

import pytest
from rich.console import Console

from flossing_lab.paper import make
from flossing_lab.paper.analysis.merge import known_runs, merge_data
from flossing_lab.paper.figures import find_figures
from flossing_lab.paper.results import Folder
from flossing_lab.runs.files import plain
from tests.test_paper import ROOT, FakeRun

GROWING = ("frontier", "above_n", "limits", "larger")
IN_PAPER = ("fig3", "fig4", "supplement_k", "supplement_order", "supplement_orthogonal", "supplement_window")


def network(seed: int, reached: float, condition: str = "none") -> dict:
    return {"condition": condition, "seed": seed, "run": f"{condition}{seed}", "reached": reached}


def group(*networks: dict) -> dict:
    row = {name: [each[name] for each in networks] for name in ("seed", "run", "reached")}
    return {"condition": networks[0]["condition"], **row}


ORDER = [f"{condition}{seed}" for condition in ("none", "before") for seed in (1, 2, 3)]


def test_networks_join_those_of_their_row_and_what_is_newer_counts():
    before = {"groups": [group(network(1, 0.5), network(3, 0.6)), group(network(2, 0.7, "before"))]}
    now = {"groups": [group(network(1, 0.9, "before")), group(network(2, 0.8), network(3, 0.9))]}
    assert merge_data(before, now, ORDER) == {
        "groups": [
            group(network(1, 0.5), network(2, 0.8), network(3, 0.9)),
            group(network(1, 0.9, "before"), network(2, 0.7, "before")),
        ]
    }


def test_what_nobody_wants_any_more_is_left_out():
    before = {"groups": [group(network(1, 0.5), network(7, 0.6))], "curves": [network(7, 0.6), network(1, 0.5)]}
    now = {"groups": [], "curves": [network(2, 0.7)]}
    kept = merge_data(before, now, ORDER)
    assert kept == {"groups": [group(network(1, 0.5))], "curves": [network(1, 0.5), network(2, 0.7)]}


def test_a_new_column_and_a_new_name_do_no_harm():
    """Newer data win whatever their row's label; networks that lack a column keep their own row."""
    before = {"groups": [group(network(1, 0.5), network(2, 0.6))]}
    now = {"groups": [group(network(2, 0.8)) | {"condition": "renamed", "alive": [7]}]}
    kept = merge_data(before, now, ORDER)
    assert kept == {"groups": [group(network(1, 0.5)), group(network(2, 0.8)) | {"condition": "renamed", "alive": [7]}]}


def test_only_runs_that_every_list_knows_are_known():
    rows = {"groups": [group(network(1, 0.5), network(2, 0.6))], "curves": [network(2, 0.6)]}
    assert known_runs(rows) == {"none2"}
    for other in ({"at_least": 3}, {"curves": [{"n": 3, "low": [0.1]}]}):
        assert not known_runs(rows | other)
        assert merge_data(rows | other, {"groups": [], **other}, ORDER) == {"groups": [], **other}
    assert not known_runs({})


@pytest.mark.parametrize("name", GROWING)
def test_the_committed_data_know_their_runs(name):
    """A change of the configurations' digests would cause hundreds of hours of runs to be repeated."""
    content = json.loads((ROOT / "paper" / "data" / f"{name}.json").read_text("utf-8"))
    wanted = {point.config.digest for spec in find_figures()[name].specs("laptop") for point in spec.points()}
    known = known_runs(content["data"])
    assert known <= wanted
    assert len(known) == content["runs"]["made"] > 0


class Everything:
    """All runs, each with an accuracy that jumps after 50 epochs."""

    def runs(self, spec):
        return [(point.values, FakeRun(point.config, 50)) for point in spec.points()]

    def calculation(self, calculation):
        return None


@pytest.mark.parametrize("name", ["frontier", *IN_PAPER])
def test_directories_may_go(tmp_path, name):
    figure, folder = find_figures()[name], Folder(tmp_path)
    nothing = {"scale": "tiny", "runs": {"made": 0, "wanted": 0}, "calculations": {"made": 0, "wanted": 0}}
    data = plain(figure.collect(Everything(), "tiny"))
    folder.write_data(name, nothing | {"data": data})
    make.keep_data(folder, figure, "tiny", chosen=True)
    after = folder.read_data(name)
    count = sum(len(spec.points()) for spec in figure.specs("tiny"))
    assert after["runs"] == {"made": count, "wanted": count}
    assert not after["missing"]
    # At this scale two schedules are the same runs, and these rows change places.
    assert sorted(after["data"]["groups"], key=str) == sorted(data["groups"], key=str)


def test_a_figure_that_names_no_runs_keeps_what_it_has(tmp_path):
    """Runs cannot be merged in here, but the directory must not lose results either."""
    figure, folder = find_figures()["capacity"], Folder(tmp_path)
    content = {"scale": "tiny", "runs": {"made": 2, "wanted": 4}, "calculations": {"made": 1, "wanted": 1}}
    folder.write_data("capacity", content | {"data": {"kept": 1}})
    for chosen in (True, False):
        make.keep_data(folder, figure, "tiny", chosen=chosen)
        assert folder.read_data("capacity")["data"] == {"kept": 1}
    assert make.keep_data(folder, figure, "laptop", chosen=True) == "tiny"  # another scale, but nothing of it yet
    assert folder.read_data("capacity")["scale"] == "tiny"


@pytest.mark.parametrize(("made", "scale"), [(3, "tiny"), (30, "laptop")])
def test_more_results_of_another_scale_replace_those_there_are(tmp_path, monkeypatch, made, scale):
    """All 8 runs of a scale take the place of 3 of another, and not that of 30."""
    figure, folder = find_figures()["fig3"], Folder(tmp_path)
    few = {"scale": "laptop", "runs": {"made": made, "wanted": 48}, "calculations": {"made": 0, "wanted": 0}}
    folder.write_data("fig3", few | {"data": {"groups": []}})
    monkeypatch.setattr(make, "_missing", lambda *_: [])
    monkeypatch.setattr(Folder, "runs", lambda self, spec: Everything().runs(spec))
    assert make.keep_data(folder, figure, "tiny", chosen=True) == (None if made == 3 else "laptop")
    assert folder.read_data("fig3")["scale"] == scale


def test_a_figure_with_more_results_of_another_scale_is_not_made(tmp_path, monkeypatch, capsys):
    folder = Folder(tmp_path / "paper")
    few = {"figure": "fig3", "scale": "ten", "runs": {"made": 120, "wanted": 280}, "missing": [], "provenance": {}}
    rows = {"calculations": {"made": 0, "wanted": 0}, "data": {"groups": []}}
    folder.write_data("fig3", few | rows)
    monkeypatch.setattr(make, "run_jobs", lambda jobs, **_: pytest.fail(f"{len(jobs)} runs"))
    monkeypatch.setattr(make, "write_page", lambda *_: None)
    assert make.make_paper("tiny", folder.path, only=["fig3"], console=Console(), workers=1) == 0
    assert "fig3 has more results of another scale, and keeps them" in capsys.readouterr().out
    assert folder.read_data("fig3")["scale"] == "ten"
