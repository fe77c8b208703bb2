"""Refused before any epoch: frozen draws, impure steps, handles that do nothing, batches taken for one system."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing._checks import check_key
from flossing._training.optimisers import read_optimiser

pytestmark = pytest.mark.usefixtures("optax_promotion")
CELL = fl.cells.VanillaRNN(8, key=jax.random.key(0))


def floss(model, inputs, **options):
    return fl.floss(model, inputs, **{"k": 2, "epochs": 3, "report": False, **options})


def test_inputs_drawn_by_numpy_are_refused_and_a_pool_of_them_works():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="inputs must be drawn with its key alone.*draw a pool of them first"):
        floss(CELL, lambda key: rng.normal(size=(40, 1)))
    pool = jnp.asarray(rng.normal(size=(50, 40, 1)))
    draw = lambda key: pool[jax.random.randint(key, (), 0, len(pool))]  # noqa: E731
    _, history = floss(CELL, draw, epochs=8, optimiser=optax.sgd(0.0))
    assert len(set(history.exponents[:, 0].tolist())) > 4


def test_inputs_that_read_the_key_as_a_number_are_refused():
    with pytest.raises(ValueError, match="inputs must be a function of a key that JAX can trace"):
        floss(CELL, lambda key: np.random.default_rng(int(key)).normal(size=(40, 1)))


def test_batches_drawn_by_numpy_are_refused_in_training():
    rng, network = np.random.default_rng(0), fl.cells.Network(CELL, outputs=1, key=jax.random.key(1))
    optimiser = optax.adam(1e-3)
    with pytest.raises(ValueError, match="batch must be drawn with its key alone"):
        fl.train(
            fl.init_training(network, optimiser),
            loss=lambda n, b: (b.sum(), {}),
            batch=lambda key: rng.normal(size=(4,)),
            optimiser=optimiser,
            epochs=2,
        )


def test_noise_by_a_key_in_the_state_is_fresh_in_every_epoch():
    def step(w, state, _):
        x, key = state
        key, now = jax.random.split(key)
        return 0.8 * x + 0.2 * w @ jnp.tanh(x) + 0.3 * jax.random.normal(now, x.shape), key

    start = jnp.zeros(8), jax.random.key(1)
    _, history = floss(jnp.eye(8) / 2, jnp.zeros(40), state=start, step=step, epochs=5, optimiser=optax.sgd(0.0))
    assert len(set(history.exponents[:, 0].tolist())) == 5


def test_a_step_that_draws_from_numpy_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="step must be a pure function of its arguments"):
        fl.lyapunov_spectrum(lambda h, _: h * rng.random(3), None, state=jnp.ones(3), steps=10)


def test_a_step_with_a_counter_is_refused():
    calls = []

    def step(h, _):
        calls.append(1)
        return (0.5, 0.9)[len(calls) % 2] * h

    with pytest.raises(ValueError, match="step must be a pure function of its arguments"):
        fl.lyapunov_spectrum(step, None, state=jnp.ones(3), steps=10)


class Rate(eqx.Module):
    w: jax.Array
    sign: jax.Array
    alpha: jax.Array
    readout: jax.Array

    def __call__(self, u, x):
        return (1 - self.alpha) * x + self.alpha * ((jnp.abs(self.w) * self.sign[None]) @ jnp.tanh(x) + u)


RATE = Rate(jax.random.normal(jax.random.key(0), (8, 8)), jnp.where(jnp.arange(8) < 6, 1.0, -1.0), jnp.array(0.2),
            jnp.ones((2, 8)))  # fmt: skip


def test_raw_keys_in_the_state_are_refused():
    """Their noise would be the same in every epoch, and two counters look alike."""

    def step(w, state, s):
        h, key = state
        key, noise = jax.random.split(key)
        return jnp.tanh(w @ h) + 0.1 * jax.random.normal(noise, h.shape), key

    start = jnp.zeros(8), jax.random.PRNGKey(0)
    with pytest.raises(ValueError, match=r"state must hold typed random keys, got uint32\[2\], .* jax.random.key"):
        floss(jnp.eye(8) / 2, jnp.zeros(40), state=start, step=step)


def test_leaves_outside_the_step_are_refused():
    inputs, start = jnp.ones((40, 8)), jnp.zeros(8)
    with pytest.raises(ValueError, match=r"where must select arrays that enter the step, got readout \(2, 8\)"):
        floss(RATE, inputs, state=start, where=lambda m: m.readout)


def test_what_is_flossed_is_said_once(capsys):
    inputs, start = jnp.ones((40, 8)), jnp.zeros(8)
    floss(RATE, inputs, state=start, report=True)
    said = capsys.readouterr().out
    assert said == "floss changes w (8, 8), sign (8,), alpha (); without effect on the step: readout\n"
    flossed, _ = floss(RATE, inputs, state=start, where=lambda m: m.w)
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(flossed.sign, RATE.sign)


def test_project_keeps_a_mask_and_signs():
    mask = jax.random.uniform(jax.random.key(5), (8, 8)) < 0.5

    def project(model):
        return eqx.tree_at(lambda m: m.w, model, jnp.maximum(model.w, 0) * mask)

    flossed, _ = floss(RATE, jnp.ones((40, 8)), state=jnp.zeros(8), where=lambda m: m.w, project=project, epochs=20)
    assert (flossed.w >= 0).all()
    assert (flossed.w[~mask] == 0).all()
    assert (flossed.w != RATE.w).any()


@pytest.mark.parametrize("key", [0, jnp.zeros(3), "a"])
def test_a_key_that_is_none(key):
    with pytest.raises(ValueError, match=r"key must be a JAX random key such as jax.random.key\(0\), got (key=|float)"):
        check_key("key", key)
    check_key("key", jax.random.key(0))
    check_key("key", jax.random.PRNGKey(0))


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(),
        pytest.param(optax.lbfgs(), marks=pytest.mark.slow),
    ],
)
def test_optimisers_that_use_the_loss(optimiser):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, history = floss(CELL, jnp.ones((40, 1)), optimiser=optimiser, epochs=6, clip=None)
    assert history.loss[-1] < history.loss[0]


def test_an_optimiser_that_was_not_called():
    with pytest.raises(ValueError, match=r"got the function adam: call it, adam\(1e-3\)"):
        read_optimiser(optax.adam)


def test_a_batch_as_one_state_is_refused():
    w, inputs = jnp.eye(5) / 2, jax.random.normal(jax.random.key(0), (20, 4, 5))
    step = lambda h, s: jnp.tanh(h @ w.T + s)  # noqa: E731
    with pytest.raises(ValueError, match=r"batched must be given for a state of shape \(4, 5\) whose 4 rows do not"):
        fl.lyapunov_spectrum(step, inputs, state=jnp.zeros((4, 5)))
    one = fl.lyapunov_spectrum(step, inputs, state=jnp.zeros((4, 5)), batched=False)
    each = fl.lyapunov_spectrum(step, inputs.swapaxes(0, 1), state=jnp.zeros(5), batched=True)
    assert one.exponents.shape == (20,)
    np.testing.assert_allclose(one.exponents.sum(), each.exponents.sum(), atol=1e-9)
    coupled = lambda h, s: jnp.tanh(h @ w.T + s + h.mean(0)[None])  # noqa: E731
    assert fl.lyapunov_spectrum(coupled, inputs, state=jnp.zeros((4, 5))).exponents.shape == (20,)
