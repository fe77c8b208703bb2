"""The balance experiment: runs, figures, reports, tables and configuration."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flossing_lab import cli
from flossing_lab.balance import experiment as balance, table as balance_table
from flossing_lab.balance.config import BalanceConfig
from flossing_lab.balance.table import MEASURES, tabulate
from flossing_lab.reference.config import Config
from flossing_lab.report import write_report
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import LABELS
from flossing_lab.runs.registry import read_config
from flossing_lab.runs.run import load_model, run
from flossing_lab.sweeps.dataset import collect, run_dataset
from flossing_lab.sweeps.spec import read_spec
from tests.test_balance import SMALL
from tests.test_report import TINY as REFERENCE, contents, write_run
from tests.torture import compare


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"):
        return run(SMALL, tmp_path_factory.mktemp("balance") / "run")


def test_a_run_keeps_what_must_not_change_and_measures_the_rest(finished):
    assert finished.config == SMALL
    assert finished.info["status"] == "finished"
    assert set(finished.info["spectra"]) == {"start", "end"}
    assert len(finished.info["spectra"]["end"]) == 8
    test, model = finished.metrics("test"), load_model(finished)
    assert test["epoch"].tolist() == [0, 4, 8, 12]
    assert test["balance"][0] == 1
    assert test["outliers_sd"].shape == (4, 2)
    assert (test["outliers_sd"][-1] > 0).all()
    assert finished.metrics("training")["epoch"].tolist() == list(range(1, 13))
    assert not model.network.b.any()
    assert not jnp.diagonal(model.network.J).any()
    start = balance.draw_model(SMALL)
    assert (model.network.J != start.network.J).sum() == 8 * 7
    # The initial state rests under the mean signal, with the weights of the last renewal, which are the final ones.
    rested = model.network((jnp.ones(2), jnp.zeros(8)), model.x0)
    np.testing.assert_allclose(rested, model.x0, rtol=0, atol=1e-12)
    assert np.abs(model.x0 - start.x0).max() > 1e-4
    np.testing.assert_allclose(
        test["test_error"][-1], balance.test_model(model, start, SMALL)["test_error"], rtol=1e-12
    )


@pytest.mark.usefixtures("optax_promotion")
def test_tests_decide_nothing_of_training(finished, tmp_path):
    other = run(SMALL.with_values(test_every=5), tmp_path / "run")
    assert other.metrics("test")["epoch"].tolist() == [0, 5, 10, 12]
    for name, array in finished.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array)
    never = run(SMALL.with_values(relax_every=100), tmp_path / "never")
    assert (never.parameters["x0"] == balance.draw_model(SMALL).x0).all()


def test_a_model_is_loaded_without_scikit_learn(finished, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    np.testing.assert_array_equal(load_model(finished).network.J, finished.parameters["network.J"])


@pytest.mark.usefixtures("optax_promotion")
def test_a_stopped_run_goes_on_to_the_bit(finished, tmp_path):
    def stop(status):
        if status.epoch >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", on_progress=stop)
    assert RunDirectory(tmp_path / "run").metrics("test")["epoch"].tolist() == [0, 4]
    compare(run(SMALL, tmp_path / "run"), finished)


def test_plots_report_and_dataset(finished, tmp_path):
    from PIL import Image

    with Image.open(finished.path / "run.png") as plot:
        assert plot.size == (2250, 1050)
    try:
        with Image.open(balance.film(finished)) as film:
            assert film.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]
            durations = []
            for frame in range(4):
                film.seek(frame)
                durations.append(film.info["duration"])
        assert sum(durations[:3]) + 1000 >= 4000
        assert durations[3] >= durations[0] + 1500
        assert not list(finished.path.glob(".film*"))
    finally:
        (finished.path / "film.gif").unlink()  # which a stopped run, compared with this one, does not have
    page = write_report([finished.path], tmp_path / "page.html").read_text()
    assert "Tracking 2 signals by a network that balances itself" in page
    assert "8 rectified units" in page
    assert "cannot be shown" not in page
    dataset = run_dataset(finished)
    assert dataset.sizes["test_epoch"] == 4
    assert dataset.outliers.dims == ("test_epoch", "signal")
    np.testing.assert_array_equal(dataset.balance, finished.metrics("test")["balance"])


def test_of_many_units_some_of_each_cluster_are_shown(tmp_path):
    run = write_run(tmp_path / "run", REFERENCE.with_values(units=200), snapshots=1)
    clusters = np.arange(200) % 3
    run.write_metrics("test", 0, {"epoch": [0], "clusters": clusters[None]})
    network = contents(tmp_path)["data"]["details"][0]["network"]
    assert network["size"] == 128
    assert network["units"] == 200
    ordered = np.concatenate([np.flatnonzero(clusters == cluster) for cluster in range(3)])
    shown = ordered[np.linspace(0, 199, 128).round().astype(int)]
    assert (np.bincount(clusters[shown]) >= 42).all()
    weights = np.load(next(iter(run.snapshots.values())))["network.J"][np.ix_(shown, shown)]
    found = np.frombuffer(base64.b64decode(network["weights"][0]), np.int8).reshape(128, 128) * network["scale"]
    np.testing.assert_allclose(found, weights, atol=0.51 * network["scale"])


def test_the_page_says_of_what_the_eigenvalues_are(tmp_path):
    write_run(tmp_path / "run", REFERENCE)
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "Of J itself, whichever units are active, not of J diag(φ′(x))" in page


def test_a_folder_with_runs_of_both_experiments(finished, tmp_path):
    folder, reference = tmp_path / "runs", REFERENCE.with_values(units=8, gain=0.032)
    for delay, condition in itertools.product((2, 3), ("none", "before")):
        config = reference.with_values(delay=delay, condition=condition)
        write_run(folder / f"{delay}-{condition}", config)
    shutil.copytree(finished.path, folder / "tracking")
    page = contents(folder)
    assert page["header"][:3] == ["experiment", "delay", "condition"]
    assert page["title"] == "5 runs"
    assert [row[:3] for row in page["rows"]] == [
        *(["reference", delay, LABELS[condition]] for delay in "23" for condition in ("none", "before")),
        ["balance", "–", "–"],
    ]
    assert page["subtitle"].split("; ")[0] == "8 units"
    assert "8 rectified units" in contents(finished.path)["subtitle"]
    names = [line["name"] for line in page["data"]["curves"]["plots"][0]["lines"]]
    assert names[0] == "experiment reference, delay 2, no flossing"
    assert names[-1] == "experiment balance"
    assert "experiment balance (tracking)" in page["detailed"]
    for delay in (2, 3):
        shutil.rmtree(folder / f"{delay}-before")
    dataset = collect(folder, tmp_path / "both.zarr")
    assert dataset.sizes["experiment"] == 2
    assert dataset.delay.values.tolist() == ["2", "3", "–"]
    place = {"experiment": "balance", "delay": "–"}
    np.testing.assert_array_equal(dataset.balance.sel(place), finished.metrics("test")["balance"])
    assert (dataset.status == "finished").sum() == 3
    accuracy = RunDirectory(folder / "3-none").metrics("training")["accuracy"]
    np.testing.assert_array_equal(dataset.accuracy.sel(experiment="reference", delay="3")[:120], accuracy)


def test_configurations_of_two_experiments(tmp_path):
    stored = Config().model_dump()
    assert stored.pop("experiment") == "reference"
    assert read_config(stored) == Config()
    assert Config().digest == "44136fa355b3"
    assert read_config(SMALL.model_dump()) == SMALL
    assert BalanceConfig().digest != Config().digest
    assert BalanceConfig().differences(Config()) == {"experiment": ("balance", "reference")}
    with pytest.raises(
        ValueError, match="experiment must be 'reference' or 'balance' or 'own', got experiment='chess'"
    ):
        read_config({"experiment": "chess"})
    (tmp_path / "sweep.toml").write_text('[base]\nexperiment = "balance"\n[[axes]]\nsignals = [1, 2]\n')
    points = read_spec(tmp_path / "sweep.toml").points()
    assert [point.config for point in points] == [BalanceConfig().with_values(signals=s) for s in (1, 2)]
    (tmp_path / "sweep.toml").write_text('[base]\nexperiment = "balance"\n[[axes]]\ndelay = [1, 2]\n')
    (tmp_path / "mixed.toml").write_text('[[axes]]\nexperiment = ["reference", "balance"]\n')
    with pytest.raises(ValueError, match="experiment must be one name, in base: the runs of a sweep are of one exp"):
        read_spec(tmp_path / "mixed.toml")
    (tmp_path / "list.toml").write_text('[base]\nexperiment = ["balance"]\n[[axes]]\nsignals = [1, 2]\n')
    with pytest.raises(
        ValueError, match=r"experiment must be 'reference' or 'balance' or 'own', got experiment=\['balance'\]"
    ):
        read_spec(tmp_path / "list.toml")
    with pytest.raises(
        ValueError, match="delay is not a field of the configuration; legal are activity_cost, amplitude"
    ):
        read_spec(tmp_path / "sweep.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tau 0", "tau must be greater than 0, got tau=0.0"),
        ("--dt -1", "dt must be greater than 0, got dt=-1.0"),
        ("--dt 1e-9", "dt must be at least 0.0001, got dt=1e-09"),
        ("--sigma -0.5", "sigma must be greater than or equal to 0, got sigma=-0.5"),
        ("--units 4 --signals 5", "signals must be at most units=4, got signals=5"),
        ("--clusters 101", "clusters must be at most units=100, got clusters=101"),
        ("--mean-coupling 0", "mean_coupling must not be 0, since targets are divided by it, got mean_coupling=0.0"),
        ("--first-scored 51", "first_scored must be at most steps=50, got first_scored=51"),
        ("--mean-coupling 5", "the initial state must stay finite as it relaxes, which it does not with gain"),
        ("--tau 1e-300", "amplitude / sqrt(2 tau) must be finite in float32, got amplitude=0.1, tau=1e-300"),
        ("--signals two", "flossing: --signals must be an integer, got 'two'"),
        ("--signals two", "(flossing train balance --help lists the legal values)"),
    ],
)
def test_illegal_values_end_in_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "balance", *arguments.split(), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("flossing: ")
    assert said.count("\n") == 1
    assert message in said
    assert not list(tmp_path.iterdir())


def test_help_does_not_import_jax():
    code = "import sys\nfrom flossing_lab.cli import main\ntry: main(['train', 'balance', '--help'])\n"
    code += "except SystemExit: assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules), 'heavy import'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("--signals", "--no-film", "--seed-network"))


def test_the_table_of_the_documentation_is_that_of_its_numbers():
    data = Path(__file__).parents[1] / "docs" / "data"
    runs = json.loads((data / "balance.json").read_text("utf-8"))
    assert [(run["signals"], run["seed"]) for run in runs] == [(s, seed) for s in (1, 2, 3) for seed in range(1, 6)]
    assert (data / "balance.txt").read_text("utf-8") == tabulate(runs)
    steps = json.loads((data / "balance_dt.json").read_text("utf-8"))
    assert [run["dt"] for run in steps] == [0.1, 0.2, 0.4]
    assert (data / "balance_dt.txt").read_text("utf-8") == tabulate(steps, "dt")


def test_what_stands_beside_the_published_numbers_are_medians():
    """The numbers in the last column of each row, in order, with the digits shown."""
    docs = Path(__file__).parents[1] / "docs"
    runs = json.loads((docs / "data" / "balance.json").read_text("utf-8"))

    def median(signals, name):
        return np.median([MEASURES[name](run) for run in runs if run["signals"] == signals])

    first, early, end = (f"test error {when}" for when in ("before training", "after 5,000 epochs", "at the end"))
    outlier, within, between = "leftmost eigenvalue", "mean coupling within clusters", "mean coupling between clusters"
    one, two = (median(signals, "tightness of balance") for signals in (1, 2))
    by_their_definition = 1 / 0.9  # they divide by the mean after the first epoch, 0.90 of that before
    expected = [
        [median(1, first), median(1, early)],
        [one, by_their_definition * one],
        [median(1, f"{outlier} before training"), median(1, outlier)],
        [median(2, end)],
        [two, by_their_definition * two],
        [median(2, within), median(2, between)],
        [median(2, outlier), median(2, "second")],
    ]
    lines = (docs / "balance.md").read_text("utf-8").partition("| Quantity | Published")[2].splitlines()[2:]
    rows = [line.split("|")[3].replace("−", "-") for line in itertools.takewhile(lambda line: line, lines)]
    for row, values in zip(rows, expected, strict=True):
        said = re.findall(r"-?\d+\.\d+", row)
        assert said == [f"{value:.{len(s.partition('.')[2])}f}" for s, value in zip(said, values, strict=True)]


@pytest.mark.usefixtures("optax_promotion")
def test_numbers_of_finished_runs_become_a_table(finished, tmp_path):
    balance_table.main(finished.path, tmp_path / "data")
    (row,) = json.loads((tmp_path / "data" / "balance.json").read_text("utf-8"))
    test = finished.metrics("test")
    assert row["activity_share"] == pytest.approx(1 - test["test_squared_error"][-1] / test["test_error"][-1])
    assert row["outliers"]["sd"] == pytest.approx(test["outliers_sd"][-1])
    assert row["plateau_end"] is None
    table = (tmp_path / "data" / "balance.txt").read_text("utf-8")
    assert table.startswith("|  | S = 2 |")
    shown = table.replace("−", "-").partition("| mean of the outliers | ")[2].split()[0]
    assert float(shown) == pytest.approx(test["outliers"][-1].mean(), rel=0.005)
    assert (tmp_path / "data" / "balance-2.png").is_file()
    balance_table.main(finished.path, tmp_path / "steps", by="dt")
    assert {path.name for path in (tmp_path / "steps").iterdir()} == {"balance_dt.json", "balance_dt.txt"}
    assert "| 1 − 1/Δt | −4.00 |" in (tmp_path / "steps" / "balance_dt.txt").read_text("utf-8")
    with pytest.raises(ValueError, match="runs must be finished runs of the experiment 'balance', got"):
        balance_table.summarise(run_of(Config(), tmp_path / "other"))


def run_of(config, path) -> RunDirectory:
    """A run directory without a number in it."""
    directory = RunDirectory(path)
    with directory.opened():
        directory.write_info({"status": "finished", "config": config.model_dump(), "spectra": {}, "versions": {}})
    return directory


def test_a_plateau_ends_when_half_of_the_fall_is_done():
    test = {"epoch": np.array([0, 5000, 6000, 7000, 8000]), "test_error": np.array([0.2, 0.03, 0.029, 0.012, 0.01])}
    assert balance_table.plateau_end(test) == 7000


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_one_signal_as_published(tmp_path):
    """The released code's figure: error from 0.17 to 0.01 within 5000 epochs, a tight balance, one outlier."""
    test = run(BalanceConfig().with_values(epochs=6000), tmp_path / "run").metrics("test")
    assert test["test_error"][0] > 0.15
    assert test["test_error"][-1] < 0.013
    assert 5 < test["balance"][-1] < 8
    assert -0.8 < test["outliers"][0, 0] < -0.6
    assert -5 < test["outliers"][-1, 0] < -3.5


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_two_signals_make_two_clusters(tmp_path):
    """The released code's figure: two groups of about half of the neurons, coupled more within, and two outliers."""
    test = run(BalanceConfig().with_values(signals=2, epochs=15001), tmp_path / "run").metrics("test")
    sizes = np.bincount(test["clusters"][-1])
    assert len(sizes) == 2
    assert ((sizes >= 30) & (sizes <= 70)).all()
    assert test["coupling_within"][-1] < test["coupling_between"][-1] < 0
    assert (test["outliers"][-1] < -3).all()
