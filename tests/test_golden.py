"""The reference experiment against independent float64 numbers whose gradients are finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing import tasks
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from tests.lab_helpers import GOLDEN, golden, golden_flossing, golden_model, named_arrays

EXACT = {"rtol": 0, "atol": 1e-9}
KEY = jax.random.key(0)


def assert_gradient(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())


def golden_task(case):
    delay, order = int(case["delay"]), -int(case["task"])
    steps = int(case["T"])
    return (
        tasks.TemporalXOR(steps=steps, delay=delay, order=order)
        if order
        else tasks.DelayedCopy(steps=steps, delay=delay)
    )


def golden_batch(case):
    return jax.vmap(golden_task(case).trial)(jnp.asarray(case["bits"].T[..., None], dtype=float))


@pytest.fixture(params=GOLDEN)
def case(request):
    return golden(request.param)


@pytest.fixture
def model(case):
    return golden_model(case)


def test_growth_and_exponents(case, model):
    steps, discard = int(case["steps"]), int(case["discard"])
    spectrum = fl.lyapunov_spectrum(
        lambda h, s: model.network(s, h),
        case["inputs"][:steps, 0],
        state=reference.first_state(model),
        basis=case["q0"],
        transient=discard,
    )
    np.testing.assert_allclose(spectrum.log_growth, case["growth"][discard:], **EXACT)
    np.testing.assert_allclose(spectrum.exponents, case["exponents"], **EXACT)
    np.testing.assert_allclose(fl.flossing_loss(spectrum.exponents), case["floss_loss"], **EXACT)


def test_flossing_gradient(case, model):
    flossing = golden_flossing(case, model)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: fl.flossing_loss(flossing.exponents(m, KEY))))(model)
    for name in ("J", "ws", "b"):
        assert_gradient(named_arrays(gradient)[name], case[f"floss_grad_{name}"])


@pytest.mark.usefixtures("optax_promotion")
def test_three_flossing_steps(case, model):
    flossing = golden_flossing(case, model)
    opt_state, update = flossing.init(model), eqx.filter_jit(flossing.update)
    for _ in range(3):
        model, opt_state, _ = update(model, opt_state, KEY)
    for name, array in named_arrays(model).items():
        np.testing.assert_allclose(array, case[f"after_3_flossing_steps_{name}"], rtol=0, atol=1e-8)


def test_task(case):
    batch = golden_batch(case)
    np.testing.assert_array_equal(batch.inputs, np.moveaxis(case["inputs"], 0, 1))
    np.testing.assert_array_equal(batch.targets, case["targets"].T)
    assert int(batch.mask[0].argmax()) + 1 == int(case["first"])


def test_task_loss_and_gradient(case, model):
    batch = golden_batch(case)
    np.testing.assert_allclose(eqx.filter_jit(model.logits)(batch.inputs), case["logits"].T, **EXACT)
    value_and_grad = eqx.filter_jit(eqx.filter_value_and_grad(reference.task_loss, has_aux=True))
    (loss, metrics), gradient = value_and_grad(model, batch)
    np.testing.assert_allclose(loss, case["task_loss"], **EXACT)
    np.testing.assert_allclose(metrics["accuracy"], case["accuracy"], **EXACT)
    for name, array in named_arrays(gradient).items():
        assert_gradient(array, case[f"task_grad_{name}"])


@pytest.mark.usefixtures("optax_promotion")
def test_three_training_steps(case, model):
    batch = golden_batch(case)
    optimiser = optax.chain(fl.clip_by_array_norm(0.03), optax.adam(1e-3))
    state = fl.init_training(model, optimiser)
    chunks = fl.train(
        state, loss=reference.task_loss, batch=lambda key: batch, optimiser=optimiser, key=KEY, epochs=3, chunk=2
    )
    for progress in chunks:
        model = progress.state.model
    for name, array in named_arrays(model).items():
        np.testing.assert_allclose(array, case[f"after_3_training_steps_{name}"], rtol=0, atol=1e-8)


def test_the_configuration_builds_the_same_task(case):
    order = -int(case["task"])
    config = Config().with_values(
        task="temporal_xor" if order else "copy", order=order or 1, delay=int(case["delay"]), steps=int(case["T"])
    )
    assert reference.make_task(config) == golden_task(case)
