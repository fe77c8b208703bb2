"""Figures based on calculations: the calculations are right, and the verdicts follow from the data."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from flossing_lab.paper.analysis import measures
from flossing_lab.paper.analysis.curves import k_colours, summary
from flossing_lab.paper.calculations import find_calculation
from flossing_lab.paper.calculations.ball_arithmetic import exact_log_singular_values
from flossing_lab.paper.calculations.flossed import extended_precision, flossed_networks
from flossing_lab.paper.calculations.lstm import train_lstm
from flossing_lab.paper.contract import Calculation, FigureModule
from flossing_lab.paper.figures import fig1, fig2, fig3, fig4, find_figures, supplement_lstm, surrogate
from flossing_lab.runs.files import plain
from tests.helpers import tanh_network

FIGURES = (fig1, fig2, surrogate, supplement_lstm)
FAKE = np.random.default_rng(0)


class Stored:
    """Fake results: `made` maps each calculation to its arrays, or to None if it has not been run."""

    def __init__(self, made):
        self.made = made

    def runs(self, spec):
        return []

    def calculation(self, calculation: Calculation):
        return self.made(calculation)


def collected(figure, made, scale="tiny"):
    """Data after a round trip through JSON."""
    return json.loads(json.dumps(plain(figure.collect(Stored(made), scale)), allow_nan=False))


def spectra(networks, first, last, units):
    return np.tile(np.linspace(first, last, units), (networks, 1))


def flossed_well(calculation):
    """Results of perfect flossing: exponents at their target, singular values as the exponents predict."""
    a = calculation.arguments
    if "flossed" in a:
        accuracy = np.full(a["epochs"], 0.99 if a["flossed"] else 0.5)
        exponents = np.array([[-0.3] * a["k"], [0.0] * a["k"], [-0.1] * a["k"]])
        return {"accuracy": accuracy, "loss": 1 - accuracy, "exponents": exponents}
    horizons = np.asarray(a["horizons"])
    if "networks" not in a:
        logs = horizons[:, None] * spectra(1, -0.5, -3.0, a["units"])[0]
        return {"ours": logs, "exact": logs + 1e-11}
    networks, k = a["networks"], a["k"]
    # The other exponents rise too, as in real networks.
    exponents = spectra(networks, -0.5, -3.0, a["units"]) + (k > 0)
    exponents[:, :k] = a["target"]
    along = a["target"] + 0.3 * 0.1 ** np.arange(a["epochs"])[None, :, None] * np.ones((networks, 1, k))
    logs = horizons[None, :, None] * exponents[:, None, :]
    feedback = horizons[None, :] * exponents[:, :1]
    return {"along": along, "exponents": exponents, "log_singular_values": logs, "log_feedback": feedback}


def nothing(calculation):
    return None


def flossing_changes_nothing(calculation):
    found = flossed_well(calculation)
    if "flossed" in calculation.arguments:
        return {**found, "accuracy": np.full_like(found["accuracy"], 0.5), "exponents": 0 * found["exponents"] - 0.3}
    if "networks" not in calculation.arguments:
        return {**found, "exact": found["exact"] + 1}
    networks, horizons = calculation.arguments["networks"], np.asarray(calculation.arguments["horizons"])
    exponents = spectra(networks, -0.3, -3.0, calculation.arguments["units"])
    logs = horizons[None, :, None] * exponents[:, None, :] / 2
    along = np.full_like(found["along"], -0.7)
    return {**found, "along": along, "exponents": exponents, "log_singular_values": logs, "log_feedback": logs[:, :, 0]}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.NAME)
def test_verdicts_follow_from_the_data(figure):
    assert isinstance(figure, FigureModule)
    assert figure.specs("tiny") == []
    unknown = "undecided at this n"
    for made, verdict in ((flossed_well, "holds"), (flossing_changes_nothing, "fails"), (nothing, "not run")):
        data = collected(figure, made, "paper")  # enough networks for a verdict
        verdicts = {claim.verdict for claim in figure.claims(data)}
        # No change at all is neither better nor worse.
        assert verdicts <= {verdict, unknown} if verdict == "fails" else verdicts == {verdict}
        # Those of surrogate compare networks before and after; the others have a criterion that nothing meets.
        assert verdict in verdicts or figure.NAME == "surrogate"
        assert isinstance(figure.draw(data), Figure)
        assert [claim.n > 0 for claim in figure.claims(data)] == [verdict != "not run"] * len(figure.claims(data))
        assert all("\n" not in claim.found and "nan" not in claim.found for claim in figure.claims(data))


@pytest.mark.parametrize("scale", ["laptop", "paper"])
@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.NAME)
def test_half_of_the_calculations_are_enough_to_draw(figure, scale):
    calculations = figure.calculations(scale)
    names = [calculation.name for calculation in calculations]
    assert len(set(names)) == len(names)
    assert json.loads(json.dumps([calculation.arguments for calculation in calculations]))
    for part in (names[::2], names[1::2], names[:1], names[-1:]):

        def made(calculation, part=part):
            return _sized(calculation) if calculation.name in part else None

        data = collected(figure, made, scale)
        assert len(json.dumps(data)) < 200_000
        figure.draw(data)
        assert {claim.verdict for claim in figure.claims(data)} <= {
            "holds",
            "fails",
            "undecided at this n",
            "not run",
        }


def _sized(calculation):
    """Noise arrays of the right shapes, with one lost direction."""
    a = calculation.arguments
    if "flossed" in a:
        return {"accuracy": FAKE.uniform(size=a["epochs"]), "exponents": FAKE.normal(size=(3, a["k"]))}
    shape = (len(a["horizons"]), a["units"])
    if "networks" not in a:
        logs = -np.sort(FAKE.exponential(size=shape))
        return {"ours": logs, "exact": logs}
    logs = -np.sort(FAKE.exponential(size=(a["networks"], *shape)))
    logs[:1, -1:, -1] = -np.inf
    exponents = -np.sort(FAKE.exponential(size=(a["networks"], a["units"])))
    along = FAKE.normal(size=(a["networks"], a["epochs"], a["k"]))
    return {"along": along, "exponents": exponents, "log_singular_values": logs, "log_feedback": logs[..., 0]}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.NAME)
def test_calculations_name_functions_that_take_their_arguments(figure):
    import inspect

    for calculation in figure.calculations("laptop"):
        signature = inspect.signature(find_calculation(calculation.function))
        signature.bind(**calculation.arguments)
        assert set(calculation.arguments) == set(signature.parameters)


SMALL = {"units": 6, "epochs": 60, "window": 40, "learning_rate": 0.02, "steps": 300}


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("kind", ["vanilla", "binary"])
def test_flossing_moves_the_measured_exponents(kind):
    shared = {"kind": kind, "networks": 2, "gains": [0.7, 0.4], "target": -0.2, "horizons": [1, 10, 100]}
    before = flossed_networks(k=0, **shared, **SMALL)
    after = flossed_networks(k=1, **shared, **SMALL)
    assert before["along"].shape == (2, 60, 0)
    assert after["along"].shape == (2, 60, 1)
    distance = [np.abs(found["exponents"][:, 0] + 0.2) for found in (before, after)]
    assert (distance[1] < 0.2).all()
    assert (distance[1] < distance[0] / 2).all()
    # Over the same bits: exponents sum to the mean log determinant, singular values to it times the horizon.
    rates = after["log_singular_values"][:, -1].mean(1) / 100
    np.testing.assert_allclose(rates, after["exponents"].mean(1), rtol=0.15)
    # The backpropagated norm of a unit gradient lies between the smallest and largest singular value.
    feedback, logs = after["log_feedback"][:, -1], after["log_singular_values"][:, -1]
    assert (feedback <= logs[:, 0] + 1e-9).all()
    assert (feedback >= logs[:, -1] - 1e-9).all()


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_extended_precision_is_that_of_the_same_network():
    pytest.importorskip("flint")
    options = {**SMALL, "epochs": 10}
    ours = extended_precision(k=1, horizons=[1, 10, 100], **options)
    assert np.abs(ours["ours"] - ours["exact"]).max() < 1e-8
    shared = {"kind": "vanilla", "networks": 1, "gains": None, "target": 0.0, "horizons": [1, 10, 100]}
    same = flossed_networks(k=1, **shared, **options)
    np.testing.assert_allclose(ours["ours"], same["log_singular_values"][0], rtol=0, atol=1e-6)


def test_extended_precision_of_a_singular_product():
    pytest.importorskip("flint")
    _, J = tanh_network(3, 1.0, jax.random.key(0))
    once = exact_log_singular_values(np.asarray(J)[None], 1.0)
    np.testing.assert_allclose(once, np.log(np.linalg.svd(J, compute_uv=False)), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="bits resolve"):
        exact_log_singular_values(np.zeros((1, 2, 2)), 1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_an_lstm_is_trained_alike_with_and_without():
    settings = supplement_lstm.calculations("tiny")[0].arguments
    without, flossed = (train_lstm(**{**settings, "flossed": which}) for which in (False, True))
    assert without["accuracy"].shape == without["loss"].shape == (settings["epochs"],)
    assert without["exponents"].shape == (3, settings["k"])
    # The same network; without flossing it is the same when training starts.
    np.testing.assert_array_equal(without["exponents"][0], flossed["exponents"][0])
    np.testing.assert_array_equal(without["exponents"][0], without["exponents"][1])
    assert (np.abs(flossed["exponents"][1]) != np.abs(flossed["exponents"][0])).all()
    never = train_lstm(**{**settings, "flossed": True, "before": 0})
    np.testing.assert_allclose(never["loss"], without["loss"], rtol=1e-12)


def test_summaries_and_colours():
    curve = summary(np.arange(1000), np.stack([np.arange(1000.0)] * 3 + [np.full(1000, np.inf)]))
    assert len(curve["x"]) == len(curve["middle"]) <= 200
    assert curve["low"] == curve["middle"] == curve["x"]
    assert set(curve["high"]) == {np.inf}  # quartiles are rounded outwards
    colours = k_colours([1, 16, 32])
    assert len(set(colours.values())) == 4
    assert {k: colour for k, colour in k_colours([1, 16, 32, 64, 75]).items() if k in colours} == colours


@pytest.mark.parametrize("scale", ["laptop", "tiny"])
def test_all_runs_are_legal_and_specifications_have_names_of_their_own(scale):
    specs = [spec for name in find_figures() for spec in find_figures()[name].specs(scale)]
    assert all(spec.points() for spec in specs)
    for name in find_figures():
        names = [spec.name for spec in find_figures()[name].specs(scale)]
        assert len(names) == len(set(names))


def test_time_on_a_curve_includes_all_flossing_before_it():
    """500 flossing epochs of 2 ms before training and 500 before epoch 101 of training, at 3 ms an epoch."""

    pace = {"seconds_per_epoch": {"training": 3e-3, "flossing": 2e-3}}

    def run(info) -> Any:
        return SimpleNamespace(info=info, metrics=lambda *_: {"training_epoch": np.repeat([0, 100], 500)})

    epochs = np.array([1, 100, 101, 1000])
    np.testing.assert_allclose(measures.seconds_at(run(pace), epochs), [1.003, 1.3, 2.303, 5.0])
    assert measures.seconds_at(run({}), epochs) is None
    assert measures.seconds_at(run(pace | {"resumed": [{}]}), epochs) is None


@pytest.mark.parametrize(("figure", "panels"), [(fig3, 3), (fig4, 4)])
def test_a_panel_against_time_for_networks_that_were_timed(figure, panels):
    line = {"epoch": [1, 2], "accuracy": [0.5, 0.7], "gradient": [0.1, 0.2]}
    row = {"d": 40, "seed": [1, 2], "final_accuracy": [0.7, 0.8]}
    slow, fast = line | {"seconds": [3.0, 5.0]}, line | {"seconds": [1.0, 3.0]}
    curves = {"none": [slow, fast], "before": [slow, line]}
    data = {
        "groups": [row | {"task": "temporal_xor", "condition": name, "curve": each} for name, each in curves.items()]
    }
    drawn = figure.draw(data).get_axes()
    assert len(drawn) == 2 * panels
    row = panels if figure is fig3 else 0  # the temporal XOR comes second there
    learning, timed = drawn[row : row + 2]
    assert "d = 40" in learning.get_title(loc="left")
    assert timed.get_xlabel() == "seconds, flossing included"
    none, before = timed.lines[:2]
    np.testing.assert_array_equal(none.get_xdata(), [1, 3, 5])
    np.testing.assert_allclose(none.get_ydata(), [0.5, 0.6, 0.7])
    np.testing.assert_array_equal(before.get_xdata(), slow["seconds"])
    assert figure.draw({"groups": []}).get_axes()  # no run yet
