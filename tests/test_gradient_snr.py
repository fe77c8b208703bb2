"""Beyond the paper: the task signal in the gradient."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest

from flossing_lab.paper.calculations import gradient_snr as calculations
from flossing_lab.paper.figures import frontier, gradient_snr as signal
from flossing_lab.reference.config import Config
from flossing_lab.reference.experiment import build, task_loss


def gram(strength, groups=8, batches=50, size=400, seed=0):
    """Mean gradients of groups of batches: a fixed direction of this norm, and noise of norm 1."""
    rng = np.random.default_rng(seed)
    direction = np.zeros(size)
    direction[0] = strength
    each = direction + rng.normal(size=(groups, batches, size)) / np.sqrt(size)
    means = each.mean(1)
    return means @ means.T, (each**2).sum(2).mean()


def test_batches_needed_are_the_squared_noise_over_the_squared_signal():
    for strength in (1.0, 0.3, 0.1):
        needed, at_least = signal.batches_needed(*gram(strength))
        assert needed == pytest.approx(strength**-2, rel=0.25)
        assert at_least < needed


def test_no_signal_is_said_to_be_none():
    """With 400 batches of noise alone, at most about one estimate in forty detects a signal."""
    found = [signal.batches_needed(*gram(0.0, seed=seed)) for seed in range(60)]
    assert sum(np.isfinite(needed) for needed, _ in found) <= 6
    # A signal of norm 0.05 would need 400 batches, and is rarely excluded; one of norm 0.3 always is.
    assert all(at_least > 0.3**-2 for _, at_least in found)


@pytest.mark.usefixtures("optax_promotion")
def test_the_gradient_of_the_loss_has_it_at_an_output_of_zero():
    config = Config().with_values(units=6, delay=2, batch=3, steps=12, readout_scale=1e-6, dtype="float64")
    experiment = build(config)
    model = eqx.tree_at(lambda model: model.network.offset, experiment.model, np.zeros(1))
    batch = experiment.batch(jax.random.key(0))
    whole = eqx.filter_jit(eqx.filter_grad(lambda model: task_loss(model, batch)[0]))(model).network.J
    found = eqx.filter_jit(calculations.target_gradient)(model, batch)
    np.testing.assert_allclose(found, -whole, rtol=1e-4, atol=1e-12)


@pytest.mark.usefixtures("optax_promotion")
def test_a_calculation_is_the_same_again():
    each = signal.calculations("tiny")
    assert len(each) == len({calculation.name for calculation in each}) == 2
    with jax.enable_x64(False):
        first, again = (calculations.signal_after_preflossing(**each[0].arguments) for _ in range(2))
    assert first["gram"].shape == (8, 8)
    assert first["square"] > 0
    np.testing.assert_array_equal(first["gram"], again["gram"])


def rows(*sizes):
    names = ("units", "batches", "epochs")
    return [{"seed": 1, "at_least": 1e4, **dict(zip(names, each, strict=True))} for each in sizes]


def test_the_verdicts():
    def verdicts(networks):
        data = json.loads(json.dumps({"networks": networks}))
        assert len(signal.draw(data).axes) == 2
        return [claim.verdict for claim in signal.claims(data)]

    networks = rows(*[(40, 10.0 + i, 20.0 + i) for i in range(2)], *[(80, 90.0 + i, 120.0 + i) for i in range(6)])
    assert verdicts(networks + rows((160, "inf", None), (160, "inf", "inf"))) == ["holds", "holds"]
    networks[2]["epochs"] = 123.5  # a rank correlation of 0.66 among the six of one size
    assert verdicts(networks)[1] == "undecided at this n"
    falling = rows(*[(40, 90.0 + i, 20.0 + i) for i in range(6)], *[(80, 10.0 + i, 120.0 - i) for i in range(6)])
    assert verdicts(falling)[0] == "fails"
    assert verdicts(networks[2:7]) == ["not run", "not run"]
    assert verdicts([]) == ["not run", "not run"]


def test_the_runs_are_those_of_the_frontier():
    theirs = {point.config.digest for spec in frontier.specs("laptop") for point in spec.points()}
    assert {point.config.digest for spec in signal.specs("laptop") for point in spec.points()} <= theirs
    assert len(signal.calculations("laptop")) == sum(len(spec.points()) for spec in signal.specs("laptop"))


def test_epochs_at_chance():
    epoch = np.arange(1, 6)
    assert signal.epochs_at_chance(epoch, np.array([0.5, 0.5, 0.6, 0.5, 0.9])) == 3.0
    assert signal.epochs_at_chance(epoch, np.full(5, 0.5)) == np.inf
