"""The condition number along training: the networks are those of the run, and the verdicts follow from the data."""

import json

import jax
import numpy as np
import pytest

from flossing_lab.paper.calculations.flossed import measuring_bits, to_float64
from flossing_lab.paper.calculations.training import along_training, condition_through_training
from flossing_lab.paper.figures import fig2_training as figure
from flossing_lab.reference import experiment as reference
from flossing_lab.runs.files import plain

TINY = figure._sizes("tiny")["values"]


class Stored:
    """Fake results: flossing lowers the condition number, during training no further."""

    def runs(self, spec):
        return []

    def calculation(self, calculation) -> dict[str, np.ndarray] | None:
        a = calculation.arguments
        (condition,) = a["conditions"]
        units, networks = a["values"].get("units", 80), 8
        slope = {"none": 2.0, "before": 0.5, "before_and_during": 0.5}[condition]
        logs = -slope * np.asarray(a["horizons"])[:, None] * np.linspace(0, 1, units)
        noise = np.linspace(0.98, 1.02, networks)[:: -1 if condition == "before" else 1]
        logs = logs * noise[:, None, None, None] * np.ones((networks, len(a["epochs"]), 1, 1))
        return {"log_singular_values": logs[None], "accuracy": np.zeros((1, networks))}


class Missing(Stored):
    def calculation(self, calculation):
        return None


def test_the_verdicts_follow_from_the_data():
    data = json.loads(json.dumps(plain(figure.collect(Stored(), "laptop")), allow_nan=False))
    verdicts = [claim.verdict for claim in figure.claims(data)]
    assert verdicts == ["holds", "holds", "holds", "undecided at this n"]
    row = data["rows"][0]
    np.testing.assert_allclose(np.median(row["m"]["80"]["last"]), 2 * 40 / np.log(10), rtol=0.02)  # log10 at t = d
    assert [len(axes.lines) for axes in figure.draw(data).get_axes()] == [3, 3, 4]
    nothing = figure.collect(Missing(), "laptop")
    assert {claim.verdict for claim in figure.claims(nothing)} == {"not run"} and figure.draw(nothing).get_axes()


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_networks_along_training():
    """Epoch 0 comes after preflossing, and training goes on from there; singular values are those of the weights."""
    jax.config.update("jax_enable_x64", False)
    found = {(c, e): (model, a) for c in ("none", "before") for e, model, a in along_training(TINY, c, 1, [0, 100])}
    weights = {at: np.asarray(model.network.J) for at, (model, _) in found.items()}
    assert (weights["none", 0] != weights["before", 0]).any() and (weights["none", 0] != weights["none", 1]).any()
    drawn = reference.build(reference.Config().with_values(**TINY, condition="before", seed=1, epochs=100)).model
    np.testing.assert_array_equal(weights["none", 0], drawn.network.J)
    assert all(len(found[c, 1][1]) == 100 for c in ("none", "before"))

    # A block of flossing before epoch 100 splits the chunks there.
    during = {e: len(a) for e, _, a in along_training(TINY | {"every": 50}, "before_and_during", 1, [0, 50, 100])}
    assert during == {0: 1, 1: 50, 2: 100}

    made = condition_through_training(1, TINY, [0, 100], ["before"], [2, 8])
    assert made["log_singular_values"].shape == (1, 1, 2, 2, 8)
    assert made["accuracy"][0, 0] == pytest.approx(np.mean(found["before", 1][1]))
    with jax.enable_x64(True):
        model, bits = to_float64(found["before", 1][0]), measuring_bits(1, 8)
        state = reference.first_state(model)
        product = np.eye(8)
        for t, bit in enumerate(bits[:108]):
            after = reference.step(model, state, bit)
            if t >= 100:
                product = np.asarray(jax.jacfwd(lambda h, s=bit: reference.step(model, h, s))(state)) @ product
            state = after
    logs = np.log(np.linalg.svd(product, compute_uv=False))
    np.testing.assert_allclose(made["log_singular_values"][0, 0, 1, 1], logs, atol=1e-8)
