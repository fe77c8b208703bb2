"""The training loop: compiled once, independent of chunk length, exact when resumed, and clear about failures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing._runtime import epochs as _loop
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from tests.helpers import OwnSchedule

pytestmark = pytest.mark.usefixtures("optax_promotion")

SMALL = Config().with_values(
    units=10, k=4, batch=3, steps=20, delay=2, window=12, flossing_steps=20, epochs=12, preflossing=5,
    interflossing=4, every=6, blocks=1, singular_values_every=4,
)  # fmt: skip


def progresses(config=SMALL, state=None, experiment=None, **options):
    e = experiment or reference.build(config)
    state = state or fl.init_training(e.model, e.optimiser, e.flossing)
    defaults = {
        "loss": reference.task_loss,
        "batch": e.batch,
        "optimiser": e.optimiser,
        "key": e.key,
        "epochs": config.training.epochs,
        "flossing": e.flossing,
        "schedule": e.schedule,
        "probe": reference.singular_values,
        "probe_every": config.training.singular_values_every,
    }
    return fl.train(state, **(defaults | options))


def gather(chunks, kind, name):
    return np.concatenate([chunk.metrics[name] for chunk in chunks if chunk.kind == kind])


def test_order_of_epochs_and_what_is_recorded():
    chunks = list(progresses(chunk=5))
    order = [(chunk.kind, chunk.epochs[0], chunk.epochs[-1]) for chunk in chunks]
    assert order == [
        ("flossing", 1, 5),
        ("training", 1, 5),
        ("flossing", 6, 9),
        ("training", 6, 10),
        ("training", 11, 12),
    ]
    final = chunks[-1].state
    assert (final.epoch, final.flossing_epoch, final.pending) == (12, 9, 0)
    assert gather(chunks, "flossing", "exponents").shape == (9, 4)
    for name in ("loss", "accuracy", "gradient_norm/network.J", "gradient_norm/x0"):
        assert np.isfinite(gather(chunks, "training", name)).all()
    values = gather(chunks, "training", "singular_values/network.J")
    recorded = np.isfinite(values).all(1)
    np.testing.assert_array_equal(np.flatnonzero(recorded) + 1, [1, 4, 8, 12])
    ranks = gather(chunks, "training", "effective_rank/network.J")[recorded]
    assert ((ranks >= 1) & (ranks <= 10)).all()
    # Raw singular values: their norm is the Frobenius norm before clipping.
    norms = np.sqrt((values[recorded] ** 2).sum(1))
    np.testing.assert_allclose(norms, gather(chunks, "training", "gradient_norm/network.J")[recorded], rtol=1e-9)


def test_what_flossing_and_training_train():
    experiment = reference.build(SMALL)
    chunks = list(progresses(experiment=experiment))
    start, flossed, trained = experiment.model, chunks[0].state.model, chunks[1].state.model

    def moved(before, after):
        pairs = zip(*(jax.tree_util.tree_leaves_with_path(model) for model in (before, after)), strict=True)
        return {path[-1].name for (path, x), (_, y) in pairs if (x != y).any()}

    assert moved(start, flossed) == {"J", "ws", "b"}
    assert moved(flossed, trained) == {"J", "ws", "wr", "b", "offset", "x0"}


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_do_not_change_the_numbers(chunk):
    experiment = reference.build(SMALL)
    reference_chunks = list(progresses(chunk=100, experiment=experiment))
    chunks = list(progresses(chunk=chunk, experiment=experiment))
    for kind, name in (("training", "loss"), ("flossing", "exponents")):
        ours, theirs = gather(chunks, kind, name), gather(reference_chunks, kind, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(chunks[-1].state.model.x0, reference_chunks[-1].state.model.x0, rtol=0, atol=1e-9)


def test_a_run_continues_bit_for_bit_from_any_chunk():
    experiment = reference.build(SMALL)
    chunks = list(progresses(chunk=5, experiment=experiment))
    for stop in range(len(chunks) - 1):
        continued = list(progresses(chunk=5, state=chunks[stop].state, experiment=experiment))
        assert len(continued) == len(chunks) - stop - 1
        for ours, whole in zip(jax.tree.leaves(continued[-1].state), jax.tree.leaves(chunks[-1].state), strict=True):
            np.testing.assert_array_equal(ours, whole)


def test_chunks_of_any_length_share_one_compilation():
    traces = []

    def loss(model, batch):
        traces.append(1)
        return reference.task_loss(model, batch)

    for progress in progresses(loss=loss, epochs=12, chunk=5):
        if progress.kind == "training" and progress.state.epoch == 5:
            first = len(traces)
    assert len(traces) == first  # chunks of 5, 5 and 2 epochs  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_compiler_that_does_not_know_our_options(monkeypatch):
    known = {"xla_cpu_use_fusion_emitters": False}
    unknown = {"xla_no_such_option": True, "xla_cpu_experimental_ynn_fusion_type": "NO_SUCH_TYPE"}
    monkeypatch.setattr(_loop, "COMPILER_OPTIONS", known | unknown)
    monkeypatch.delenv("XLA_FLAGS")  # what a user sets there stays
    for name in ("compiler_options", "_jitted_run"):
        monkeypatch.setattr(_loop, name, getattr(_loop, name).__wrapped__)
    assert _loop.compiler_options() == known
    end, records = _loop.run_chunk(lambda x, epoch: (x + epoch, x), jnp.array(0), 3, 4, capacity=5)
    assert end == 3 + 4 + 5 + 6
    np.testing.assert_array_equal(records, [0, 3, 7, 12])


@pytest.mark.parametrize("flag", ["--xla_cpu_use_fusion_emitters", "--xla_cpu_use_fusion_emitters=true"])
def test_options_that_a_user_sets_stay(monkeypatch, flag):
    monkeypatch.setattr(_loop, "compiler_options", _loop.compiler_options.__wrapped__)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_backend_optimization_level=0 {flag}")
    assert "xla_cpu_use_fusion_emitters" not in _loop.compiler_options()


def test_the_callers_loop_can_stop_early():
    for progress in progresses(chunk=5):
        if progress.state.epoch >= 4:
            break
    assert progress.state.epoch == 5  # pyright: ignore[reportPossiblyUnboundVariable]
    assert set(progress.state.measures) >= {"loss", "accuracy", "exponents"}  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_schedule_may_be_any_object_with_its_two_methods():
    flossed = [(c.state.epoch, len(c.epochs)) for c in progresses(schedule=OwnSchedule(4), chunk=5) if c.kind[0] == "f"]
    assert flossed == [(3, 2), (7, 2), (11, 2)]


def test_adaptive_schedules_see_measures():
    seen = []

    def schedule(epoch, measures):
        seen.append((epoch, measures["exponents"].shape))
        return 2 if epoch == 6 and "loss" in measures else 0

    kinds = [chunk.kind for chunk in progresses(schedule=schedule, chunk=5)]
    assert kinds.count("flossing") == 1
    assert seen == [(epoch, (4,)) for epoch in (6, 11)]  # after every chunk, and each epoch once


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_a_rule_of_ones_own_sees_the_accuracy_of_the_epoch_before(chunk):
    """Queried at its own epochs, whatever the length of a chunk; measures are those of the epoch before."""
    seen = {}

    def rule(epoch, measures):
        seen[epoch] = float(measures["accuracy"])
        return 3 if epoch == 9 else 0

    chunks = list(progresses(schedule=fl.schedules.rule(rule, every=4, preflossing=2), chunk=chunk))
    accuracy = gather(chunks, "training", "accuracy")
    assert seen == {epoch: accuracy[epoch - 2] for epoch in (5, 9)}
    flossed = [(c.state.epoch, len(c.epochs)) for c in chunks if c.kind == "flossing"]
    assert sum(count for at, count in flossed if at == 0) == 2
    assert sum(c for at, c in flossed if at == 8) == 3


def test_regression_with_another_network_and_no_flossing():
    """The loop knows nothing of bits or of the reference network."""
    model = eqx.nn.Linear(3, 1, key=jax.random.key(0))

    def batch(key):
        x = jax.random.normal(key, (32, 3))
        return x, x @ jnp.array([1.0, -2.0, 0.5])

    def loss(model, batch):
        x, y = batch
        return jnp.mean((jax.vmap(model)(x)[:, 0] - y) ** 2), {}

    optimiser = optax.adam(0.05)
    state = fl.init_training(model, optimiser)
    chunks = fl.train(state, loss=loss, batch=batch, optimiser=optimiser, key=jax.random.key(1), epochs=300)
    *_, last = chunks
    assert last.metrics["loss"][-1] < 1e-4
    assert "exponents" not in last.state.measures


def test_clip_each_array():
    clip = fl.clip_by_array_norm(0.5)
    gradients = {"large": jnp.full((3, 3), 10.0), "small": jnp.full(2, 0.1), "zero": jnp.zeros(2)}
    clipped, _ = clip.update(gradients, clip.init(gradients))
    assert float(jnp.linalg.norm(clipped["large"])) == pytest.approx(0.5)
    np.testing.assert_allclose(clipped["large"] / clipped["large"][0, 0], 1)
    np.testing.assert_array_equal(clipped["small"], gradients["small"])
    np.testing.assert_array_equal(clipped["zero"], 0)
    with pytest.raises(ValueError, match="limit must be a positive number, got limit=0.0"):
        fl.clip_by_array_norm(0.0)


def test_divergence_names_epoch_and_quantity():
    def loss(model, batch):
        value, metrics = reference.task_loss(model, batch)
        return value * jnp.exp(1e3 * jnp.sum(model.network.offset - 0.001) ** 2 * 1e9), metrics

    with pytest.raises(FloatingPointError, match=r"training epoch \d+: (loss|gradient_norm/network\.\w+) is (inf|nan)"):
        list(progresses(loss=loss))


def test_overflowing_feedback_is_named_with_a_horizon_that_works():
    """A chaotic network over 5000 steps in float32: the forward pass is bounded, the gradient is not."""
    with jax.enable_x64(False):
        config = SMALL.with_values(
            units=30,
            gain=8.0,
            steps=5000,
            batch=2,
            condition="none",
            dtype="float32",
            singular_values_every=0,
            epochs=1,
        )
        with pytest.raises(FloatingPointError, match=r"gradient_norm.* grow like exp.*at most \d+ steps stay finite"):
            list(progresses(config))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1, got epochs=0"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got chunk=0"),
        ({"probe_every": -1}, "probe_every must be an integer of at least 0"),
        ({"flossing": None}, "flossing must be given when the schedule asks for it, as in epoch 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        list(progresses(**options))


def test_flossing_as_a_term_of_the_loss():
    """One step of gradient descent moves along the sum of both gradients, the term's in the flossed leaves alone."""
    experiment = reference.build(SMALL)
    model, flossing, weight = experiment.model, experiment.flossing, 0.3
    descent = optax.sgd(1.0)
    options = {"optimiser": descent, "schedule": None, "probe": None, "epochs": 1}

    def step(**more):
        (chunk,) = progresses(state=fl.init_training(model, descent, flossing), **options, **more)
        return chunk

    plain, both = step(), step(term=fl.FlossingTerm(weight, every=1))
    key = jax.random.fold_in(jax.random.fold_in(experiment.key, 3), 1)
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda model: flossing.loss(model, key)))(model)
    expected = jax.tree_util.tree_map(lambda end, slope: end - weight * slope, plain.state.model, gradient)
    for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (both.state.model, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert float(jnp.abs(gradient.network.wr).max()) == 0 < float(jnp.abs(gradient.network.J).max())
    np.testing.assert_allclose(both.metrics["flossing_term"], [weight * value], rtol=1e-12)
    size = weight * optax.tree.norm(gradient)
    np.testing.assert_allclose(both.metrics["flossing_term_gradient_norm"], [size], rtol=1e-12)
    # What an adaptive schedule is held against is the task's alone.
    norms = [name for name in plain.metrics if name.startswith("gradient_norm/")]
    for name in ("loss", *norms):
        np.testing.assert_allclose(both.metrics[name], plain.metrics[name], rtol=1e-12)


def test_the_term_may_have_another_loss_than_the_blocks():
    experiment = reference.build(SMALL)
    model, flossing = experiment.model, experiment.flossing
    key = jax.random.fold_in(jax.random.fold_in(experiment.key, 3), 1)

    def double(measured):
        return 2 * fl.losses.exponents(measured)

    (chunk,) = progresses(schedule=None, term=fl.FlossingTerm(0.3, every=1, loss=double), probe=None, epochs=1)
    value = eqx.filter_jit(flossing.loss)(model, key)
    assert flossing.loss_function.__name__ == "exponents"
    np.testing.assert_allclose(chunk.metrics["flossing_term"], [2 * 0.3 * value], rtol=1e-12)


def test_the_term_is_added_in_every_mth_epoch():
    (chunk,) = progresses(schedule=None, term=fl.FlossingTerm(10.0, every=4), probe=None, chunk=12)
    term = chunk.metrics["flossing_term"]
    np.testing.assert_array_equal(np.flatnonzero(term) + 1, [4, 8, 12])
    assert (term[[3, 7, 11]] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": fl.FlossingTerm(1.0), "flossing": None}, "flossing must be given for a term of the loss"),
        (
            {"term": fl.FlossingTerm(1.0, loss=fl.flossing_loss)},
            "term.loss must be a function of what an epoch measures, .* got flossing_loss, which takes exponents",
        ),
    ],
)
def test_a_term_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        next(progresses(schedule=None, **options))


def line(model, batch):
    return model["w"].sum() * batch, {}


def plain(loss, epochs=2, **options):
    optimiser = optax.sgd(1e-30)
    state = fl.init_training({"w": jnp.ones(3, "f4")}, optimiser)
    options = {"batch": lambda key: jnp.float32(1e25), "optimiser": optimiser, "key": jax.random.key(0)} | options
    return fl.train(state, loss=loss, epochs=epochs, **options)


def test_large_gradients_that_are_finite_are_no_reason_to_stop():
    (chunk,) = plain(line)
    np.testing.assert_allclose(chunk.metrics["gradient_norm/w"], np.sqrt(3) * 1e25, rtol=1e-6)


@pytest.mark.parametrize("name", ["loss", "gradient_norm/w"])
def test_metrics_have_names_of_their_own(name):
    with pytest.raises(ValueError, match=f"loss must return metrics under names of their own, got {name}"):
        list(plain(lambda model, batch: (line(model, batch)[0], {name: jnp.float32(7)})))


def test_bad_arguments_are_seen_before_the_first_chunk_is_asked_for():
    with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got epochs=0"):
        plain(line, epochs=0)


def test_a_state_of_another_optimiser_is_refused(no_type_checks):
    model = {"w": jnp.ones(3)}
    state, options = (
        fl.init_training(model, optax.adam(0.1)),
        {"loss": lambda *_: 0, "batch": lambda key: key, "epochs": 1},
    )
    with pytest.raises(ValueError, match="state must come from init_training with this optimiser, got that of another"):
        fl.train(state, optimiser=optax.sgd(0.1), **options)
    with pytest.raises(ValueError, match="key must be a JAX random key such as"):
        fl.train(state, optimiser=optax.adam(0.1), key=3, **options)
