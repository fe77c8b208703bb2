"""Flossing moves exponents to their targets, on the chosen leaves, with the chosen optimiser."""

import functools
import inspect
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flossing as fl
from flossing._runtime.interning import interned
from flossing.cells import VanillaRNN

pytestmark = pytest.mark.usefixtures("optax_promotion")
KEY = jax.random.key(0)
FAST = optax.adam(1e-2)


def small(units=12):
    return VanillaRNN(units, key=jax.random.key(4))


def bits(key):
    return jax.random.bernoulli(key, shape=(40, 1)).astype(float)


def floss(model, inputs=bits, **options):
    defaults = {"state": jnp.zeros(12), "key": KEY, "k": 6, "epochs": 60, "optimiser": FAST}
    defaults |= {"loss": fl.losses.exponents}
    return fl.floss(model, inputs, **(defaults | options))


@pytest.mark.parametrize("target", [0.0, -0.5, np.linspace(0.0, -0.5, 6)])
def test_exponents_reach_their_target(target):
    model, history = floss(small(), target=target, epochs=200)
    wanted = np.broadcast_to(target, 6)
    assert np.abs(history.exponents[0] - wanted).max() > 0.15
    np.testing.assert_allclose(history.exponents[-10:].mean(0), wanted, atol=0.12)
    assert history.loss[-1] < history.loss[0] / 4
    assert history.loss.shape == history.gradient_norm.shape == (200,)
    # The model that comes back is the flossed one.
    after = fl.lyapunov_spectrum(
        lambda h, s: model(s, h), bits(jax.random.key(9)), state=jnp.zeros(12), k=6, transient=14
    )
    np.testing.assert_allclose(after.exponents, wanted, atol=0.25)


def test_history_is_measured_before_each_update():
    model = small()
    _, history = floss(model, inputs=bits(KEY), epochs=3, window=30, transient=5)
    basis_key, _ = jax.random.split(KEY)
    spectrum = fl.lyapunov_spectrum(
        lambda h, s: model(s, h), bits(KEY)[:30], state=jnp.zeros(12), k=6, key=basis_key, transient=5
    )
    np.testing.assert_allclose(history.exponents[0], spectrum.exponents, rtol=0, atol=1e-12)
    np.testing.assert_allclose(history.loss[0], fl.flossing_loss(spectrum.exponents), rtol=0, atol=1e-12)


SCALE = 1.0


def scaled(x):
    return SCALE * x


def test_globals_that_functions_read_are_part_of_them(monkeypatch):
    """A loop at the top of a script changes a number that its functions read: nothing stale is run again."""
    found = []
    for number in (1.0, 3.0):
        monkeypatch.setitem(globals(), "SCALE", number)
        step = lambda model, state, s: jnp.tanh(scaled(model.J @ state) + model.ws @ s)  # noqa: E731
        _, history = floss(small(), epochs=1, interval=1, step=step, loss=lambda m: SCALE * fl.losses.exponents(m))
        truth = fl.lyapunov_spectrum(small(), bits(KEY), state=jnp.zeros(12), k=1, step=step)
        found.append((history.loss[0], np.mean(history.exponents[0] ** 2), float(truth.exponents[0])))
    (one, squares, _), (three, other, _) = found
    assert one == pytest.approx(squares) and three == pytest.approx(3 * other) and squares != pytest.approx(other)


def test_a_function_that_reads_other_values_is_another_function():
    """The same function object, in a notebook: its globals, closure, attributes or module change between two calls."""
    weight, settings, module = 1.0, {"weight": 1.0}, types.ModuleType("settings")
    exec("weight = 1.0\ndef factor():\n    return weight", vars(module))

    class Weighted:
        weight = 1.0

        def __call__(self, measures):
            return self.weight * fl.losses.exponents(measures)

        def method(self, measures):
            return self.factor() * fl.losses.exponents(measures)

        def factor(self):
            return self.weight

    weighted, reads = Weighted(), [{"weight": 1.0}]
    losses = [
        lambda measures: weight * fl.losses.exponents(measures),
        lambda measures: settings["weight"] * fl.losses.exponents(measures),
        functools.partial(lambda weighted, measures: weighted.weight * fl.losses.exponents(measures), weighted),
        weighted,
        weighted.method,
        lambda measures: reads[0]["weight"] * fl.losses.exponents(measures),
        lambda measures: getattr(weighted, "weight") * fl.losses.exponents(measures),  # noqa: B009
        eval("lambda measures: settings.weight * exponents(measures)", {"settings": module, **vars(fl.losses)}),
        eval("lambda measures: settings.factor() * exponents(measures)", {"settings": module, **vars(fl.losses)}),
    ]
    options = {"epochs": 1, "interval": 1, "window": 12, "transient": 0, "k": 2}
    before = [floss(small(), loss=loss, **options)[1].loss[0] for loss in losses]
    weight = settings["weight"] = reads[0]["weight"] = weighted.weight = module.weight = 3.0  # pyright: ignore[reportAttributeAccessIssue]
    after = [floss(small(), loss=loss, **options)[1].loss[0] for loss in losses]
    np.testing.assert_allclose(after, np.multiply(3, before), rtol=1e-12)
    weight = 1.0
    assert floss(small(), loss=losses[0], **options)[1].loss[0] == before[0]
    same = interned(weighted.method)
    weighted.calls = 7  # pyright: ignore[reportAttributeAccessIssue] (nothing that the method reads)
    assert interned(weighted.method) is same


def test_a_window_beyond_the_precision_of_a_chaotic_orbit_is_warned_of():
    """The logistic map at 3.9, lambda_1 = 0.5: 36 nats after some 80 steps; 60 steps are short enough."""
    logistic = lambda r, x, s: r * x * (1 - x)  # noqa: E731
    options = {"state": jnp.array([0.3]), "epochs": 2, "step": logistic, "report": False, "optimiser": optax.sgd(0.0)}
    with pytest.warns(
        UserWarning, match=r"chaotic orbit, lambda_1 = 0\.[45]\d* .* window of 200 steps: .* at most 8\d"
    ):
        fl.floss(jnp.array(3.9), None, window=200, **options)
    fl.floss(jnp.array(3.9), None, window=60, **options)


def test_only_the_chosen_leaves_move():
    before = small()
    after, _ = floss(before, where=lambda m: (m.J, m.b), epochs=2)
    moved = {name for name in ("J", "ws", "b") if (getattr(before, name) != getattr(after, name)).any()}
    assert moved == {"J", "b"}


def test_chunks_do_not_change_the_numbers_and_moments_can_be_kept():
    whole, history = floss(small(), inputs=bits(KEY), epochs=20, chunk=20)
    pieces, chunked = floss(small(), inputs=bits(KEY), epochs=20, chunk=7)
    np.testing.assert_allclose(history.exponents, chunked.exponents, rtol=0, atol=1e-10)
    half, first = floss(small(), inputs=bits(KEY), epochs=10)
    again, second = floss(half, inputs=bits(KEY), epochs=10, flossing_state=first.state)
    np.testing.assert_allclose(np.concatenate([first.loss, second.loss]), history.loss, rtol=0, atol=1e-10)
    np.testing.assert_allclose(again.J, whole.J, rtol=0, atol=1e-10)
    np.testing.assert_allclose(pieces.J, whole.J, rtol=0, atol=1e-10)


def test_callback_and_fresh_inputs():
    seen = []
    floss(small(), epochs=25, chunk=10, callback=lambda done, model, record: seen.append((done, record.loss.shape)))
    assert seen == [(10, (10,)), (20, (10,)), (25, (5,))]
    model = eqx.tree_at(lambda m: m.J, small(), 0.3 * small().J)
    _, history = floss(model, optimiser=optax.sgd(0.0), epochs=5)
    assert len(np.unique(history.loss)) == 5  # nothing moves but the inputs


@pytest.mark.parametrize("clip", [0.1, 0.03, None])
def test_a_spike_of_the_gradient_moves_no_further_than_its_clipped_norm(clip):
    """With plain gradient descent at rate 1, the weights move by the gradient norm passed to the optimiser."""
    before = small()
    after, history = floss(before, epochs=1, optimiser=optax.sgd(1.0), clip=clip)
    (norm,) = history.gradient_norm
    moved = jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)))
    assert norm > 0.15
    np.testing.assert_allclose(moved, norm if clip is None else clip, rtol=1e-9)


def test_both_ecosystems_clip_alike():
    torch_side = pytest.importorskip("flossing.pytorch")
    defaults = {
        inspect.signature(floss).parameters["clip"].default for floss in (fl.floss, torch_side.floss, fl.Flossing)
    }
    assert defaults == {0.1}


def test_a_second_call_does_not_compile_again():
    traces = np.zeros(1)  # an array, since a list that changes makes another function of the step

    def step(model, state, input):
        traces[0] += 1
        return model(input, state)

    model, history = floss(small(), step=step, interval=1, epochs=5, chunk=5)
    first = traces[0]
    floss(model, step=step, interval=1, epochs=3, chunk=5, flossing_state=history.state)
    # Only the traces that check what the step returns, and that it returns it again.
    assert traces[0] - first == 2


def test_plain_functions_with_dict_parameters():
    def step(params, h, s):
        return jnp.tanh(params["W"] @ h + s)

    params = {"W": jax.random.normal(KEY, (5, 5)) / 3, "unused": jnp.array(1), "name": "net"}
    flossed, history = fl.floss(
        params, jnp.ones((30, 5)), state=jnp.zeros(5), key=KEY, k=3, epochs=80, step=step, optimiser=FAST
    )
    assert abs(history.exponents[-1]).max() < abs(history.exponents[0]).max()
    assert flossed["name"] == "net"


def test_autonomous_systems_and_states_from_the_model():
    class Start(eqx.Module):
        W: jax.Array
        h: jax.Array

    model = Start(jax.random.normal(KEY, (4, 4)) / 4, jnp.ones(4))
    _, history = fl.floss(
        model,
        None,
        state=lambda m: m.h,
        key=KEY,
        k=2,
        window=30,
        epochs=100,
        step=lambda m, h, s: jnp.tanh(m.W @ h),
        where=lambda m: m.W,
        optimiser=FAST,
    )
    assert np.abs(history.exponents[-1]).max() < 0.2


def test_lost_exponents_stop_with_epoch_and_index():
    """Rank one: the second exponent is -inf."""
    params = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(3))
    with pytest.raises(FloatingPointError, match=r"flossing epoch 1: .*exponents\[1\]=-inf.*use k <= 1"):
        fl.floss(params, None, state=jnp.zeros(3), key=KEY, k=2, window=9, step=lambda W, h, s: W @ h)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 13}, r"k must be an integer from 1 to 12 .*got k=13"),
        ({"k": 0}, "k must be an integer from 1 to 12"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got epochs=0"),
        ({"window": 41}, r"window must be an integer from 1 to 40 \(inputs have 40 steps\), got window=41"),
        ({"transient": 40}, r"transient must be an integer from 0 to 39 \(window=40\), got transient=40"),
        ({"interval": 0}, "interval must be an integer of at least 1"),
        ({"clip": -1.0}, "clip must be a positive number, got clip=-1.0"),
        ({"target": np.zeros(5)}, r"target must be a scalar or have shape \(6,\).*\(5,\)"),
        ({"basis": np.zeros((12, 13)), "k": None}, r"basis must have shape \(12, k\).*got shape \(12, 13\)"),
        ({"inputs": None}, "window must be given for an autonomous system"),
        ({"state": jnp.full(12, jnp.nan)}, r"state must be finite, got nan at index \(0,\)"),
        ({"state": jnp.zeros(11)}, r"step must accept a state like float64\[11\] and an input like float64\[1\], got "),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        floss(small(), **options)
    assert "\n" not in str(caught.value)


def test_models_of_numpy_arrays():
    model = {"W": np.random.default_rng(0).normal(size=(3, 3))}
    options = {"state": jnp.zeros(3), "key": KEY, "window": 9, "epochs": 2}
    flossed, _ = fl.floss(model, None, step=lambda m, h, s: m["W"] @ h, **options)
    assert (flossed["W"] != model["W"]).any()
    with pytest.raises(ValueError, match="model must hold a floating array to floss, got none"):
        fl.floss({"n": np.arange(3)}, None, step=lambda m, h, s: 0.5 * h, **options)


def test_bad_parameters():
    model = eqx.tree_at(lambda m: m.J, small(), small().J.at[1, 2].set(jnp.inf))
    with pytest.raises(ValueError, match=r"model.J must be finite, got inf at index \(1, 2\)"):
        floss(model)


def test_an_interval_that_is_asked_for_is_kept():
    _, history = floss(small(), epochs=40)
    assert history.interval[-1] > 1
    for interval in (1, 3):
        _, later = floss(small(), epochs=2, interval=interval, flossing_state=history.state)
        np.testing.assert_array_equal(later.interval, interval)
    _, later = floss(small(), epochs=2, window=2, transient=0, k=2, flossing_state=history.state)
    assert later.interval.max() <= 2


def test_a_state_of_other_leaves_is_refused():
    _, history = floss(small(), epochs=1)
    with pytest.raises(
        ValueError, match="flossing_state must come from a call with the same model, where and"
    ) as error:
        floss(small(), epochs=1, where=lambda m: m.J, flossing_state=history.state)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": lambda m: ()}, "where must select floating arrays of the model, got none"),
        ({"target": np.nan}, "target must be finite, got nan"),
        ({"target": np.array([0.0, np.inf, 0, 0, 0, 0])}, r"target must be finite, got inf at index \(1,\)"),
    ],
)
def test_nothing_to_floss_and_nowhere_to_go(options, message):
    with pytest.raises(ValueError, match=message):
        floss(small(), epochs=1, **options)
