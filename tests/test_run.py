"""Runs and their directories, in-process and small."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from flossing_lab.own.demo import signed_config, signed_demo
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config, StoppingConfig
from flossing_lab.reference.demo import ARMS, demo
from flossing_lab.reference.experiment import make_stop
from flossing_lab.reference.figures import write_film
from flossing_lab.runs.demo import _table, sentence
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import read_arrays, write_arrays, write_atomically, write_json
from flossing_lab.runs.run import load_model, run
from tests.test_train import SMALL as SMALL32

SMALL = SMALL32.with_values(dtype="float64")
pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    import jax

    with jax.numpy_dtype_promotion("standard"):
        return run(SMALL, tmp_path_factory.mktemp("runs") / "one")


def test_a_run_directory_holds_everything(finished):
    info = finished.info
    assert info["status"] == "finished"
    assert finished.config == SMALL
    assert {"jax", "flossing", "python"} <= set(info["versions"])
    assert info["device"]
    assert info["seconds"] > info["compile_seconds"] > 0
    assert set(info["spectra"]) == {"start", "after_preflossing", "end"}
    training, flossing = finished.metrics("training"), finished.metrics("flossing")
    np.testing.assert_array_equal(training["epoch"], np.arange(1, 13))
    np.testing.assert_array_equal(flossing["epoch"], np.arange(1, 10))
    np.testing.assert_array_equal(flossing["training_epoch"], [0] * 5 + [5] * 4)
    assert training["singular_values/x0"].shape == (12, 3)
    assert training["measured_exponents"].shape == (len(training["measured_epoch"]), 4)
    assert (finished.path / "run.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in finished.path.iterdir()}
    arrays = {"metrics", "snapshots", "checkpoints", "parameters.npz", "horizons.npz"}
    assert names == {".lock", "run.json", "run.png"} | arrays


def test_a_film_from_the_snapshots(finished, tmp_path):
    image = pytest.importorskip("PIL.Image")
    try:
        with image.open(write_film(finished)) as film:
            assert film.n_frames == len(finished.snapshots)
    finally:
        (finished.path / "film.gif").unlink()  # other tests list the directory
    with pytest.raises(ValueError, match="run must hold snapshots for a film, got .*: set snapshots_every above 0"):
        write_film(RunDirectory(tmp_path))


def test_flossing_that_may_come_is_not_announced(tmp_path):
    seen = []
    values = {"condition": "adaptive", "every": 4, "threshold": 1e-12}
    run(SMALL.with_values(**values), tmp_path / "run", on_progress=lambda s: seen.append((s.epoch, s.flossing_epochs)))
    assert seen[0] == (0, 5)
    assert seen[-1] == (12, 5)
    seen.clear()
    run(SMALL, tmp_path / "blocks", on_progress=lambda s: seen.append((s.epoch, s.flossing_epochs)))
    assert {announced for _, announced in seen} == {9}
    seen.clear()
    values["threshold"] = 1e12
    run(SMALL.with_values(**values), tmp_path / "all", on_progress=lambda s: seen.append(s.flossing_epochs))
    assert seen[0] == 5
    assert seen[-1] == 5 + 2 * 4
    assert seen == sorted(seen)


def test_the_saved_network_is_the_trained_one(finished):
    model = load_model(finished)
    end = reference.measure_spectrum(model, SMALL).exponents
    np.testing.assert_allclose(end, finished.info["spectra"]["end"], rtol=0, atol=1e-12)
    with np.load(finished.path / "parameters.npz", allow_pickle=False) as file:
        assert set(file.files) == {f"network.{name}" for name in ("J", "ws", "wr", "b", "offset")} | {"x0"}


def test_the_same_configuration_gives_the_same_run(finished, tmp_path):
    again = run(SMALL, tmp_path / "again")
    for kind in ("training", "flossing"):
        ours, theirs = again.metrics(kind), finished.metrics(kind)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_seeds_are_streams_of_their_own():
    base = reference.build(SMALL).model
    other = reference.build(SMALL.with_values(seed_network=2)).model
    assert (base.network.J != other.network.J).any()
    input_only = reference.build(SMALL.with_values(seed_input=2))
    assert (input_only.model.network.J == base.network.J).all()
    # The reference gives all seeds the value 1: the draws must differ all the same.
    correlation = np.corrcoef(np.ravel(base.network.J)[:30], np.ravel(base.x0))[0, 1]
    assert abs(correlation) < 0.9


def test_an_interrupted_run_leaves_a_readable_directory(tmp_path):
    def interrupt(status):
        if status.epoch >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", on_progress=interrupt)
    directory = RunDirectory(tmp_path / "run")
    assert directory.info["status"] == "interrupted"
    assert len(directory.metrics("training")["loss"]) >= 5
    assert load_model(directory).x0.shape == (3, 10)
    assert (directory.path / "run.png").exists()


LONGER = SMALL.with_values(epochs=300, chunk=40, condition="before", singular_values_every=0, snapshots_every=0)


@pytest.mark.parametrize(
    ("values", "epoch", "reason"),
    [
        (
            {"stop_at": 0.01},
            120,
            "accuracy {last:.4f} has reached stop_at=0.01",
        ),  # the first chunk after a hundred epochs
        (
            {"give_up_after": 150, "give_up_below": 0.99},
            160,
            "accuracy has been {best:.4f} at most, below give_up_below=0.99",
        ),
        ({"stop_at": 0.999, "give_up_after": 150, "give_up_below": 0.01}, 300, None),
    ],
)
def test_training_ends_early_when_it_is_told_to(tmp_path, values, epoch, reason):
    ended = run(LONGER.with_values(**values), tmp_path / "ended")
    assert ended.info["status"] == "finished"
    accuracy = ended.metrics("training")["accuracy"]
    assert len(accuracy) == epoch
    if reason is None:
        assert "stopped" not in ended.info
    else:
        assert ended.info["stopped"]["epoch"] == epoch
        means = [accuracy[end - 100 : end].mean() for end in range(100, epoch + 1)]
        assert ended.info["stopped"]["reason"] == reason.format(last=means[-1], best=max(means))
    whole = run(LONGER, tmp_path / "whole")
    np.testing.assert_array_equal(accuracy, whole.metrics("training")["accuracy"][:epoch])


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (0.5, "accuracy has been 0.5000 at most, below give_up_below=0.55"),
        (0.6, None),  # for a hundred epochs better than chance, long ago
        (0.95, "accuracy 0.9500 has reached stop_at=0.9"),
    ],
)
def test_only_what_never_left_chance_is_given_up(late, reason):
    stop = make_stop(StoppingConfig(stop_at=0.9, give_up_after=400))
    assert stop is not None
    accuracy = np.full(500, 0.5)
    accuracy[200:300] = late
    metrics = {"epoch": np.arange(1, 501), "accuracy": accuracy}
    so_far = 300 if late == 0.95 else 500
    assert stop({name: values[:so_far] for name, values in metrics.items()}) == reason
    assert stop({name: values[:99] for name, values in metrics.items()}) is None


def test_a_run_that_is_continued_ends_early_at_the_same_epoch(tmp_path):
    def interrupt_at(epoch):
        def interrupt(status):
            if status.epoch >= epoch:
                raise KeyboardInterrupt

        return interrupt

    config = LONGER.with_values(give_up_after=150, give_up_below=0.99)
    for epoch in (80, 160):  # the second after the last epoch, before anything is said to be finished
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path, on_progress=interrupt_at(epoch))
        assert RunDirectory(tmp_path).info["status"] == "interrupted"
    ended = run(config, tmp_path)
    assert ended.info["status"] == "finished"
    assert ended.info["stopped"]["epoch"] == 160
    assert len(ended.metrics("training")["epoch"]) == 160


def test_nothing_is_overwritten_by_accident(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="out must be new, empty or of a run"):
        run(SMALL, tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="out must be a directory"):
        run(SMALL, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run directory must hold run.json"),
        ("{", "run.json must hold JSON"),
        ("[]", "must have format 1, which this version reads, got 'list'"),
        ('{"format": 0}', "must have format 1, which this version reads, got 0"),
    ],
)
def test_directories_that_are_not_ours(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        _ = RunDirectory(tmp_path).config


def test_a_configuration_that_is_not_legal_is_named(tmp_path):
    write_json(tmp_path / "run.json", {"format": 1, "config": {"network": {"units": 0}}})
    with pytest.raises(ValueError, match=r"run.json: units must be greater than or equal to 1, got units=0"):
        _ = RunDirectory(tmp_path).config


def test_parameters_of_another_shape_are_refused(finished, tmp_path):
    write_json(tmp_path / "run.json", {"format": 1, "config": SMALL.model_dump()})
    with pytest.raises(ValueError, match="run directory must hold parameters.npz"):
        load_model(RunDirectory(tmp_path))
    write_arrays(tmp_path / "parameters.npz", finished.parameters | {"x0": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"must hold x0 of shape \(3, 10\), got shape \(2, 2\)"):
        load_model(RunDirectory(tmp_path))


def test_pickles_are_not_read(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "evil.npz")


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_has_words_for_what_is_not_finite(tmp_path):
    write_json(tmp_path / "x.json", {"a": np.array([1.0, -np.inf, np.nan])})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.0, "-inf", None]}


def test_demo(tmp_path):
    plot = demo(SMALL, tmp_path / "demo", Console(quiet=True))
    assert plot.read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["task"] == "Temporal XOR at lags 2 and 4"
    assert tuple(summary["conditions"]) == tuple(ARMS)
    good = RunDirectory(tmp_path / "demo" / "good_start").config
    assert SMALL.differences(good).keys() >= {"recurrent", "input_scale"} and good.condition == "none"
    for row in summary["conditions"].values():
        assert 0 <= row["final_accuracy"] <= 1
        assert len(row["exponents"]) == 4
    demo(SMALL, tmp_path / "demo", Console(quiet=True))  # a second demo replaces the first


def test_the_sentence_of_the_demo():
    rows = {"none": None, "good_start": 300, "before": 200, "before_and_during": 250}
    summary = {"epochs": 3000, "conditions": {name: {"learned_after": epoch} for name, epoch in rows.items()}}
    assert sentence(summary) == (
        "Learned, to an accuracy of 0.95: good initialisation, no flossing (300 epochs); flossing before (200 epochs); "
        "flossing before and during (250 epochs). Not learned: no flossing."
    )
    summary["conditions"] = {"none": {"learned_after": None}}
    assert sentence(summary) == "No condition reaches an accuracy of 0.95 within 3000 epochs."


def test_the_signed_demo(tmp_path, capsys):
    config = signed_config(2, 6, 1).with_values(units=12, preflossing=3, chunk=3)
    plot = signed_demo(config, tmp_path / "demo", Console())
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "No condition reaches an accuracy of 0.95 within 6 epochs." in " ".join(capsys.readouterr().out.split())


def test_the_configuration_can_say_every_field():
    flat = {
        name: value
        for section in SMALL.model_dump().values()
        if isinstance(section, dict)
        for name, value in section.items()
    }
    assert Config().with_values(**flat, dtype="float64") == SMALL
    with pytest.raises(ValueError, match="delays is not a field of the configuration; legal are"):
        Config().with_values(delays=3)


def test_an_interruption_before_the_first_epoch_is_recorded(tmp_path):
    """The first status comes before the network is measured."""

    def interrupt(status):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", on_progress=interrupt)
    stopped = RunDirectory(tmp_path / "run")
    assert stopped.info["status"] == "interrupted" and not stopped.info["spectra"]
    assert run(SMALL, tmp_path / "run").info["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("recurrent", ["gaussian", "orthogonal"])
def test_quick_compilation_draws_the_same_digits(recurrent):
    """Committed runs begin with these networks. In a process of its own, as the tests set XLA's flags."""
    code = (
        "import jax, numpy as np; from flossing_lab.reference import experiment as e; "
        "from flossing_lab.reference.config import Config; "
        f"c = Config().with_values(recurrent={recurrent!r}); k = jax.random.split(jax.random.key(3)); "
        "slow = jax.jit(e._draw, static_argnums=(0, 1, 2))(c.network, 1, 16, *k); "
        "quick = e._jitted_draw()(c.network, 1, 16, *k); "
        "assert all((a == b).all() for a, b in zip(jax.tree.leaves(slow), jax.tree.leaves(quick), strict=True))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_table_of_the_demo_fits_a_narrow_terminal():
    row = {"exponents_at_start": [-2.44], "exponents_after_preflossing": [-0.08], "exponents": [-1.33]}
    row |= {"learned_after": 2553, "final_accuracy": 0.997, "seconds": 123.0}
    written = io.StringIO()
    Console(width=80, file=written).print(_table({"k": 75, "epochs": 3001, "conditions": dict.fromkeys(ARMS, row)}))
    text = written.getvalue()
    assert "…" not in text and text.count("123 s") == len(ARMS)
