"""The report on synthetic run directories: its numbers against NumPy."""

import base64
import itertools
import re

import numpy as np
import pytest

from flossing_lab.reference.config import Config
from flossing_lab.report.details import MOST_RUNS
from flossing_lab.report.page import collect, write_report
from flossing_lab.report.runs import quartiles, read_runs
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import COLOURS, LABELS, first_reaching, running_mean
from flossing_lab.sweeps.collection import write_sweep

TINY = Config().with_values(
    units=6, k=4, epochs=120, batch=3, steps=20, delay=2, window=12, flossing_steps=20, preflossing=20,
    interflossing=10, every=50, blocks=1,
)  # fmt: skip
CONDITIONS = ("none", "before", "before_and_during")
SWEPT = ("none", "before", "during", "before_and_during")


def write_run(path, config=TINY, *, status="finished", snapshots=3, detailed=True, **info) -> RunDirectory:
    """A run directory with numbers that are drawn, not trained, and differ from one configuration to another."""
    rng = np.random.default_rng(int(config.digest, 16))
    units, k, epochs = config.network.units, config.k, config.training.epochs
    directory = RunDirectory(path)
    stages = {stage: -np.sort(rng.exponential(size=k)) for stage in ("start", "after_preflossing", "end")}
    blocks = {"before": (0, config.flossing.preflossing), "during": (49, config.flossing.interflossing)}
    flossed = np.repeat(
        *np.transpose([blocks[word] for word in blocks if word in config.flossing.condition] or [(0, 0)])
    )
    level = {"none": 0.5, "before": 0.8, "during": 0.9, "before_and_during": 0.99}[config.flossing.condition]
    epoch = np.arange(1, epochs + 1)
    accuracy = level + (0.5 - level) * np.exp(-epoch / 30) + 0.01 * rng.standard_normal(epochs) + 0.02 * rng.random()
    with directory.opened():
        directory.write_info({
            "status": status, "config": config.model_dump(), "spectra": stages, "seconds": 12.5,
            "versions": {"flossing": "0.1.0"}, **info,
        })  # fmt: skip
        for chunk in (epoch[:49], epoch[49:]):
            directory.write_metrics("training", int(chunk[0]), {
                "epoch": chunk,
                "accuracy": accuracy[chunk - 1],
                "loss": 1.5 - accuracy[chunk - 1],
                "measured_epoch": chunk[-1:],
                "measured_exponents": -np.sort(rng.exponential(size=(1, k))),
                **({"gradient_norm/network.J": rng.exponential(size=len(chunk))} if detailed else {}),
            })  # fmt: skip
        if len(flossed):
            exponents = -np.sort(rng.exponential(size=(len(flossed), k)))
            directory.write_metrics("flossing", 1, {
                "epoch": np.arange(1, len(flossed) + 1),
                "training_epoch": flossed,
                "exponents": exponents,
                "flossing_loss": (exponents**2).mean(1),
            })  # fmt: skip
        if detailed:
            horizon = np.array([1, 4, 16])
            logs = {stage: -np.sort(rng.exponential(size=(3, units))) * horizon[:, None] for stage in stages}
            directory.write_horizons({"horizon": horizon, **logs})
            for count in range(snapshots):
                weights = rng.standard_normal((units, units)) / np.sqrt(units)
                directory.write_snapshot(count * 60, 20, {"network.J": weights, "x0": np.zeros(2)})
    return directory


def contents(*paths):
    return collect(*read_runs(paths))


def write_comparison(folder):
    """Three conditions, four seeds each."""
    for condition in CONDITIONS:
        for seed in range(1, 5):
            write_run(folder / f"{condition}-{seed}", TINY.with_values(condition=condition, seed=seed))
    return folder


def sweep_of_400(tmp_path_factory):
    """Ten delays, four conditions, ten seeds; the first seed of each has all details.

    Written once for all modules of tests.
    """
    folder = tmp_path_factory.getbasetemp() / "sweep"
    if not folder.exists():
        for delay, condition, seed in itertools.product(range(2, 12), SWEPT, range(1, 11)):
            config = TINY.with_values(delay=delay, condition=condition, seed=seed)
            write_run(folder / f"{delay}-{condition}-{seed}", config, detailed=seed == 1)
    return folder


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return sweep_of_400(tmp_path_factory)


def smoothed(values, width=25):
    return np.array([np.mean(values[max(0, stop - width) : stop]) for stop in range(1, len(values) + 1)])


def metric(folder, condition, name="accuracy", seeds=range(1, 5)):
    return [RunDirectory(folder / f"{condition}-{seed}").metrics("training")[name] for seed in seeds]


# ---- all runs --------------------------------------------------------------------------------------------------------


def test_one_run_is_a_plain_line(tmp_path):
    run = write_run(tmp_path / "run")
    page = contents(tmp_path / "run")
    (plot,) = page["data"]["curves"]["plots"]
    (line,) = plot["lines"]
    accuracy = run.metrics("training")["accuracy"]
    assert line["x"] == list(range(1, 121))
    np.testing.assert_allclose(line["accuracy"]["y"], smoothed(accuracy), rtol=1e-3)
    np.testing.assert_allclose(line["loss"]["y"], smoothed(1.5 - accuracy), rtol=1e-3)
    assert "low" not in line["accuracy"]
    assert line["blocks"] == [0, 49]
    assert line["colour"] == COLOURS["before_and_during"]
    assert page["title"] == "Temporal XOR at lags 2 and 4"
    assert page["statuses"] == "1 run: 1 finished"
    assert page["data"]["final"] is None
    assert page["rows"][0][:3] == ["flossing before and during", "1", f"{accuracy[-100:].mean():.3f}"]


def test_a_sweep_gives_its_name_and_the_time_of_compiling(tmp_path):
    seeds, config = (1, 2), TINY.with_values(condition="none")
    configs = [config.with_values(seed=seed) for seed in seeds]
    for each, seconds in zip(configs, (3.0, 5.0), strict=True):
        write_run(tmp_path / "lags" / "runs" / each.digest, each, compile_seconds=seconds)
    runs = [{"digest": each.digest, "values": {"seed": seed}} for each, seed in zip(configs, seeds, strict=True)]
    write_sweep(tmp_path / "lags", {"name": "lags", "axes": [["seed"]], "runs": runs})
    text = write_report([tmp_path / "lags"], tmp_path / "report.html").read_text()
    assert "<h1>lags</h1>" in text and "<p>Temporal XOR at lags 2 and 4; no flossing;" in text
    found = contents(tmp_path / "lags")
    (row,) = found["rows"]
    assert dict(zip(found["header"], row, strict=True))["of these compiling"] == "4"
    assert "<h1>Temporal XOR at lags 2 and 4</h1>" in write_report([tmp_path], tmp_path / "other.html").read_text()


def test_a_comparison_has_bands_between_the_quartiles_of_its_seeds(comparison):
    page = contents(comparison)
    (plot,) = page["data"]["curves"]["plots"]
    assert [line["name"] for line in plot["lines"]] == [LABELS[condition] for condition in CONDITIONS]
    assert [line["colour"] for line in plot["lines"]] == [COLOURS[condition] for condition in CONDITIONS]
    for line, condition in zip(plot["lines"], CONDITIONS, strict=True):
        expected = np.percentile([smoothed(values) for values in metric(comparison, condition)], [25, 50, 75], axis=0)
        found = [line["accuracy"][name] for name in ("low", "y", "high")]
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_summary_counts_its_runs_right(comparison):
    page = contents(comparison)
    assert page["header"][:3] == ["condition", "runs", "final accuracy"]
    for row, condition in zip(page["rows"], CONDITIONS, strict=True):
        cells = dict(zip(page["header"], row, strict=True))
        final = [values[-100:].mean() for values in metric(comparison, condition)]
        low, median, high = np.percentile(final, [25, 50, 75])
        assert cells["final accuracy"] == f"{median:.3f} [{low:.3f}, {high:.3f}]"
        spectra = [RunDirectory(comparison / f"{condition}-{seed}").info["spectra"]["end"] for seed in range(1, 5)]
        low, median, high = np.percentile([spectrum[3] for spectrum in spectra], [25, 50, 75])
        assert cells["λ4 at the end"] == f"{median:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
        reached = [np.flatnonzero(smoothed(values) >= 0.95) + 1 for values in metric(comparison, condition)]
        first = [epochs[0] for epochs in reached if len(epochs)]
        assert (cells["epochs to 0.95"] == "not reached") == (not first)
        assert not first or cells["epochs to 0.95"].startswith(f"{np.median(first):.0f} ")
    assert page["subtitle"].endswith("4 seeds")


def test_runs_that_have_come_less_far_are_left_out_of_later_medians(tmp_path):
    values = {}
    for seed in (1, 2, 3):
        directory = write_run(tmp_path / str(seed), TINY.with_values(seed=seed), status="running")
        values[seed] = smoothed(directory.metrics("training")["accuracy"])
    (tmp_path / "3" / "metrics" / "training-00000050.npz").unlink()
    (line,) = contents(tmp_path)["data"]["curves"]["plots"][0]["lines"]
    np.testing.assert_allclose(line["accuracy"]["y"][:49], np.median([v[:49] for v in values.values()], 0), rtol=1e-3)
    np.testing.assert_allclose(line["accuracy"]["y"][49:], (values[1] + values[2])[49:] / 2, rtol=1e-3)


def test_quartiles_leave_out_nan_and_survive_infinities():
    values = np.random.default_rng(0).normal(size=(7, 50))
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    values[:, 0] = np.nan
    found = quartiles(values)
    np.testing.assert_allclose(found[:, 1:], np.nanpercentile(values[:, 1:], [25, 50, 75], axis=0))
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_array_equal(quartiles(np.array([-np.inf, -np.inf, -np.inf, 1, 2])), [-np.inf, -np.inf, 1])


def test_a_sweep_shows_one_delay_at_a_time_and_the_accuracy_against_all(sweep):
    page = contents(sweep)
    assert page["title"] == "400 runs"
    assert len(page["rows"]) == 40
    assert [row[0] for row in page["rows"][::4]] == [str(delay) for delay in range(2, 12)]
    plots = page["data"]["curves"]["plots"]
    assert [plot["label"] for plot in plots] == [f"delay {delay}" for delay in range(2, 12)]
    assert all([line["name"] for line in plot["lines"]] == [LABELS[each] for each in SWEPT] for plot in plots)
    final = page["data"]["final"]
    assert final["axis"] == "delay"
    assert not final["log"]
    (plot,) = final["plots"]
    line = plot["lines"][1]
    assert line["x"] == list(range(2, 12))
    assert line["name"] == LABELS["before"]
    finals = [[values[-100:].mean() for values in metric(sweep, f"{d}-before", seeds=range(1, 11))] for d in line["x"]]
    low, median, high = np.percentile(finals, [25, 50, 75], axis=1)
    np.testing.assert_allclose([line["accuracy"][n] for n in ("low", "y", "high")], [low, median, high], rtol=1e-3)


def test_few_runs_that_differ_in_much_share_one_plot(tmp_path):
    for number, (delay, gain, condition) in enumerate([(3, 1.0, "none"), (2, 2.0, "before"), (2, 1.0, "before")]):
        write_run(tmp_path / str(number), TINY.with_values(delay=delay, gain=gain, condition=condition))
    (plot,) = contents(tmp_path)["data"]["curves"]["plots"]
    names = {line["name"] for line in plot["lines"]}
    assert "gain 1.0, delay 3, no flossing" in names
    assert len(names) == 3
    assert len({(line["colour"], line["dash"]) for line in plot["lines"]}) == 3


@pytest.mark.parametrize("values", [{"gain": 8, "delay": 1}, {"gain": 2, "delay": 4}])
def test_no_two_lines_look_alike(values, tmp_path):
    for gain, delay in itertools.product(range(values["gain"]), range(values["delay"])):
        config = TINY.with_values(gain=1 + gain / 10, delay=1 + delay)
        write_run(tmp_path / f"{gain}-{delay}", config, detailed=False)
    (plot,) = contents(tmp_path)["data"]["curves"]["plots"]
    assert len({(line["colour"], line["dash"]) for line in plot["lines"]}) == 8


@pytest.mark.parametrize(("delays", "log"), [((2, 4, 8, 16), True), ((2, 4, 6, 8), False)])
def test_values_that_double_are_on_a_logarithmic_axis(delays, log, tmp_path):
    for delay in delays:
        write_run(tmp_path / str(delay), TINY.with_values(delay=delay), detailed=False)
    assert contents(tmp_path)["data"]["final"]["log"] is log


def test_long_runs_are_thinned_out(tmp_path):
    write_run(tmp_path / "run", TINY.with_values(epochs=3001))
    (line,) = contents(tmp_path)["data"]["curves"]["plots"][0]["lines"]
    assert len(line["x"]) == len(line["accuracy"]["y"]) <= 400
    assert line["x"][0] == 1
    assert line["x"][-1] == 3001


# ---- one run ---------------------------------------------------------------------------------------------------------


def test_eigenvalues_and_weights_are_those_of_the_snapshots(tmp_path):
    run = write_run(tmp_path / "run")
    network = contents(tmp_path)["data"]["details"][0]["network"]
    assert network["epochs"] == [(0, 20), (60, 20), (120, 20)]
    for at, path in enumerate(run.snapshots.values()):
        weights = np.load(path)["network.J"]
        eigenvalues = np.roots(np.poly(weights))  # of the characteristic polynomial
        found = np.array(network["real"][at]) + 1j * np.array(network["imaginary"][at])
        np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(eigenvalues), atol=1e-4)
        shown = np.frombuffer(base64.b64decode(network["weights"][at]), np.int8).reshape(6, 6) * network["scale"]
        np.testing.assert_allclose(shown, weights, atol=0.51 * network["scale"])
        assert np.abs(weights).max() > 50 * network["scale"]


def test_many_snapshots_are_thinned_out_to_the_first_the_last_and_some_between(tmp_path):
    write_run(tmp_path / "run", snapshots=150)
    network = contents(tmp_path)["data"]["details"][0]["network"]
    epochs = network["epochs"]
    assert network["of"] == 150
    assert len(epochs) == 60
    assert epochs[0] == (0, 20)
    assert epochs[-1] == (149 * 60, 20)


def test_condition_numbers_are_those_of_the_singular_values(tmp_path):
    run = write_run(tmp_path / "run")
    logs = dict(run.horizons)
    logs["end"] = logs["end"].copy()
    logs["end"][-1, 3:] = -np.inf
    run.write_horizons(logs)
    panel = contents(tmp_path)["data"]["details"][0]["horizons"]
    values = np.exp(logs["start"])
    np.testing.assert_allclose(panel["lines"]["start"]["y"], np.log10(values[:, 0] / values[:, 3]), rtol=1e-3)
    assert panel["lines"]["end"]["y"][-1] is None
    assert panel["singular"]
    exponents = run.info["spectra"]["start"]
    slope = np.diff(panel["lines"]["start"]["theory"]) / np.diff(panel["x"])
    np.testing.assert_allclose(slope, (exponents[0] - exponents[3]) / np.log(10), rtol=2e-3)


def test_exponents_are_in_order_of_time_with_their_epochs(tmp_path):
    run = write_run(tmp_path / "run")
    panels = contents(tmp_path)["data"]["details"][0]
    training, flossing, shown = run.metrics("training"), run.metrics("flossing"), panels["exponents"]
    # 20 flossing epochs, 49 of training, 10 of flossing, and training to the end.
    moments = list(zip(shown["training"], shown["flossing"], shown["flossed"], strict=True))
    assert moments[:20] == [(0, epoch, True) for epoch in range(1, 21)]
    assert moments[20:] == [(49, 20, False), *((49, epoch, True) for epoch in range(21, 31)), (120, 30, False)]
    (middle, end), flossed = training["measured_exponents"], flossing["exponents"]
    expected = np.concatenate([flossed[:20], [middle], flossed[20:], [end]])
    np.testing.assert_allclose(shown["exponents"], expected.T, rtol=1e-3)
    np.testing.assert_allclose(panels["squares"]["mean"], flossing["flossing_loss"], rtol=1e-3)
    assert panels["squares"]["starts"] == [21]
    np.testing.assert_allclose(panels["spectra"]["end"], run.info["spectra"]["end"], rtol=1e-3)


def test_exponents_of_minus_infinity_are_gaps(tmp_path):
    run = write_run(tmp_path / "run")
    end = [*run.info["spectra"]["end"][:3], -np.inf]
    run.write_info(run.info | {"spectra": run.info["spectra"] | {"end": end}})
    page = contents(tmp_path)
    assert dict(zip(page["header"], page["rows"][0], strict=True))["λ4 at the end"] == "−∞"
    panels = page["data"]["details"][0]
    assert panels["spectra"]["end"][-1] is None
    assert panels["horizons"]["lines"]["end"]["theory"] == [None] * 3


def test_of_many_runs_those_near_the_median_are_shown(sweep):
    page = contents(sweep)
    assert len(page["detailed"]) == len(page["data"]["details"]) == MOST_RUNS
    name = page["detailed"][0]
    assert name.startswith("delay 2, no flossing, seed ")
    finals = [values[-100:].mean() for values in metric(sweep, "2-none", seeds=range(1, 11))]
    seed = int(re.search(r"seed (\d+)", name)[1])
    distance = np.abs(finals - np.median(finals))
    assert distance[seed - 1] == distance.min()
    assert page["detailed"][-1].startswith("delay 11, flossing before and during")


def test_a_mean_over_epochs_leaves_out_nan():
    epochs, values = np.arange(1, 101), np.ones(100)
    values[9] = np.nan
    smooth = running_mean(epochs, values, width=5)[1]
    np.testing.assert_array_equal(smooth, 1)
    assert first_reaching(epochs, values, 0.95) == 25
    assert np.isnan(running_mean(epochs[:2], np.full(2, np.nan))[1]).all()
