"""Transversal and conditional exponents: tangents stay in a subspace that the Jacobians map into itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flossing as fl
import flossing.pytorch as flt

LOG2 = np.log(2)


def coupled(size, share):
    """Logistic maps at r = 4, each mixed with the mean of all."""

    def step(x, _):
        y = 4 * x * (1 - x)
        return (1 - share) * y + share * y.mean()

    return step


@pytest.mark.parametrize(
    ("size", "columns"),
    [(2, [[1, -1]]), (3, [[1, -1, 0]]), (3, [[1, 1, -2]]), (3, [[1, -1, 0], [1, 1, -2]]), (4, [[1, -1, 1, -1]])],
)
def test_transversal_exponents_of_synchronised_maps(size, columns):
    """log 2 + log(1 - share) for all transversal directions, while the synchronised orbit has log 2."""
    basis = np.array(columns, float).T
    options = {"state": jnp.full(size, 0.3), "steps": 4000}
    found = fl.lyapunov_spectrum(coupled(size, 0.6), None, basis=basis, **options)
    np.testing.assert_allclose(found.exponents, LOG2 + np.log(0.4), atol=2e-3)
    more = fl.lyapunov_spectrum(coupled(size, 0.6), None, basis=found.basis, **options | {"state": found.state})
    np.testing.assert_allclose(more.exponents, LOG2 + np.log(0.4), atol=2e-3)


def drive_and_response(h, _):
    x, y, z, u, w = h
    return jnp.stack([10 * (y - x), x * (60 - z) - y, x * y - 8 / 3 * z, 10 * (y - u), u * y - 8 / 3 * w])


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("interval", [1, 5])
def test_conditional_exponents_of_pecora_and_carroll(k, interval):
    """y of Lorenz drives (x, z): the response has exponents -8/3 and -10, exactly."""
    start = jnp.array([1.0, 2.0, 20.0, 5.0, 7.0])
    options = {"steps": 6000, "transient": 1000, "interval": interval, "time_step": 0.002}
    step = fl.flows.rk4(drive_and_response, 0.002)
    found = fl.lyapunov_spectrum(step, None, state=start, basis=np.eye(5)[:, 3 : 3 + k], **options)
    np.testing.assert_allclose(found.exponents, [-8 / 3, -10][:k], atol=1e-3)


def test_a_basis_outside_any_invariant_subspace_is_not_restricted():
    """A network whose rows all couple: a basis with zeros turns towards the directions of the whole space."""
    weights = jax.random.normal(jax.random.key(0), (6, 6)) / 2
    options = {"state": jnp.ones(6), "steps": 400}
    step = lambda h, _: jnp.tanh(weights @ h + 0.1)  # noqa: E731
    whole = fl.lyapunov_spectrum(step, None, k=2, **options, transient=100)
    found = fl.lyapunov_spectrum(step, None, basis=np.eye(6)[:, 4:], **options, transient=100)
    np.testing.assert_allclose(found.exponents, whole.exponents, atol=1e-2)


def test_a_coupling_that_appears_along_the_orbit_is_seen():
    """The second half of the inputs couples the two coordinates, so the axis is invariant only at first."""
    gate = jnp.concatenate([jnp.zeros(100), jnp.ones(100)])
    step = lambda h, g: jnp.array([2 * h[0] + g * h[1], 0.5 * h[1] + g * h[0]]) * 0.4  # noqa: E731
    found = fl.lyapunov_spectrum(step, gate, state=jnp.zeros(2), basis=np.eye(2)[:, 1:], transient=150)
    top = np.log(0.4 * np.linalg.eigvals([[2, 1], [1, 0.5]]).max())
    np.testing.assert_allclose(found.exponents, top, atol=1e-2)


@pytest.mark.usefixtures("optax_promotion")
def test_floss_stays_inside():
    """Flossing the response of a drive: the exponents before the first update are the conditional ones."""
    inputs = 0.1 * jax.random.normal(jax.random.key(0), (80, 2))

    def step(w, h, s):
        return jnp.concatenate([3 * jnp.tanh(h[:2] + s), jnp.tanh(w @ h[2:] + h[:2])])

    w, basis = jnp.array([[0.5, 0.2], [0.0, 0.3]]), np.eye(4)[:, 2:]
    options = {"state": jnp.full(4, 0.1), "step": step, "basis": basis}
    found = fl.lyapunov_spectrum(w, inputs, transient=18, **options)
    _, history = fl.floss(w, inputs, epochs=2, transient=18, **options)
    np.testing.assert_allclose(history.exponents[0], found.exponents, rtol=1e-9)
    flossing = fl.Flossing(w, inputs, transient=18, **options)
    assert flossing.subspace is not None
    np.testing.assert_array_equal(jnp.abs(flossing.subspace[:2]), 0)


def test_the_second_layer_of_a_torch_module():
    """The first layer drives the second, whose conditional exponents belong to the spectrum of both."""
    torch.manual_seed(0)
    rnn, inputs = torch.nn.RNN(2, 4, num_layers=2).double(), torch.randn(600, 2).double()
    with torch.no_grad():
        everything = flt.lyapunov_spectrum(rnn, inputs, transient=100).exponents
        first = flt.lyapunov_spectrum(rnn, inputs, transient=100, basis=torch.eye(8)[:, :4]).exponents
        second = flt.lyapunov_spectrum(rnn, inputs, transient=100, basis=torch.eye(8)[:, 4:]).exponents
    alone = torch.nn.RNN(2, 4).double()
    alone.load_state_dict({name: value for name, value in rnn.state_dict().items() if name.endswith("l0")})
    layer = flt.lyapunov_spectrum(alone, inputs, transient=100).exponents.detach()
    both = torch.cat([layer, second]).sort(descending=True).values
    np.testing.assert_allclose(both, everything, atol=0.03)
    np.testing.assert_allclose(first, everything[:4], atol=0.03)  # not invariant: it turns to the fastest directions


def test_transversal_exponents_in_torch():
    def step(x, _):
        y = 4 * x * (1 - x)
        return 0.4 * y + 0.6 * y.mean()

    start = torch.full((3,), 0.3).double()
    for columns in ([[1, -1, 0]], [[1, -1, 0], [1, 1, -2]]):
        basis = torch.tensor(columns).double().T
        found = flt.lyapunov_spectrum(step, None, state=start, steps=600, basis=basis)
        np.testing.assert_allclose(found.exponents, LOG2 + np.log(0.4), atol=0.02)


def test_a_system_that_synchronises_during_the_transient():
    """The plane is invariant on the synchronised orbit, which a run from different starts reaches first."""

    def step(x, _):
        y = 3.6 * x * (1 - x)
        return 0.3 * y + 0.7 * y.mean()

    start, basis = jnp.array([0.3, 0.31, 0.32]), np.array([[1.0, -1.0, 0.0]]).T
    options = {"steps": 3000, "transient": 1000}
    found = fl.lyapunov_spectrum(step, None, state=start, basis=basis, **options)
    alone = fl.lyapunov_spectrum(lambda x, _: 3.6 * x * (1 - x), None, state=start[:1], **options)
    np.testing.assert_allclose(found.exponents, alone.exponents + np.log(0.3), atol=0.02)


A, PULL = np.array([[1.05, 0.6, 0.0], [-0.6, 1.0, 0.3], [0.2, 0.0, 0.8]]), 0.2
"""Two linear systems of three variables, coupled in all of them."""
ACROSS = np.concatenate([np.eye(3), -np.eye(3)])


def pair(library, start):
    """The step of two coupled systems, their state, and what measures them."""
    whole = np.kron(np.eye(2), A - PULL * np.eye(3)) + PULL * np.kron([[0, 1], [1, 0]], np.eye(3))
    if library == "jax":
        return (lambda h, _: jnp.asarray(whole) @ h), jnp.array(start), fl.lyapunov_spectrum, np.asarray
    matrix = torch.as_tensor(whole)
    return (lambda h, _: matrix @ h), torch.tensor(start).double(), flt.lyapunov_spectrum, torch.as_tensor


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_one_direction_finds_the_subspace_that_separates_two_systems(library):
    """Its exponent is that of A - 2 PULL, whichever of three directions is given; those of A are larger."""
    step, state, spectrum, array = pair(library, [1.0, 2.0, 3.0] * 2)
    options = {"state": state, "steps": 200, "transient": 50}
    exact = np.sort(np.log(np.abs(np.linalg.eigvals(A - 2 * PULL * np.eye(3)))))[::-1]
    assert np.log(np.abs(np.linalg.eigvals(A))).max() > exact[0] + 0.2
    for columns in ([0], [1], [2, 0], [0, 1, 2])[:: 1 if library == "jax" else 2]:
        found = spectrum(step, None, basis=array(ACROSS[:, columns]), **options).exponents
        np.testing.assert_allclose(found, exact[: len(columns)], atol=0.02)


def test_one_direction_across_two_chaotic_flows():
    """Two Lorenz systems, coupled in x: one of three directions that separate them, and all three."""

    def flow(h, _):
        one, other = h[:3], h[3:]
        rates = lambda h: jnp.stack([10 * (h[1] - h[0]), h[0] * (28 - h[2]) - h[1], h[0] * h[1] - 8 / 3 * h[2]])  # noqa: E731
        pull = jnp.array([5.0, 0.0, 0.0]) * (other - one)
        return jnp.concatenate([rates(one) + pull, rates(other) - pull])

    step, state = fl.flows.rk4(flow, 0.005), jnp.array([1.0, 2.0, 20.0] * 2)
    options = {"state": state, "steps": 20_000, "transient": 2000, "time_step": 0.005}
    one, every, whole = (
        fl.lyapunov_spectrum(step, None, **options, **chosen).exponents[0]
        for chosen in ({"basis": ACROSS[:, :1]}, {"basis": ACROSS}, {"k": 1})
    )
    assert abs(one - every) < 0.02 and whole > every + 0.3


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_a_direction_across_systems_that_differ_warns(library, recwarn):
    step, state, spectrum, array = pair(library, [1.0, 2.0, 3.0, 1.5, 2.5, 3.0])
    with pytest.warns(UserWarning, match="basis separates coordinates, but the Jacobians map it out"):
        spectrum(step, None, state=state, steps=50, basis=array(ACROSS[:, :1]))
    recwarn.clear()
    spectrum(step, None, state=state, steps=50, basis=array(np.eye(6)[:, :2]))
    assert not [each for each in recwarn if "separates" in str(each.message)]


def test_a_batch_is_not_restricted_to_the_subspace_of_its_first_sequence(recwarn):
    """Two pairs of logistic maps, coupled in x: they agree in the first sequence, and not in the second."""

    def step(h, _):
        x, u = 3.8 * h[::2] * (1 - h[::2]), 3.8 * h[1::2] * (1 - h[1::2])
        x, u = 0.9 * x + 0.1 * x[::-1], 0.7 * u + 0.3 * x
        return jnp.stack([x[0], u[0], x[1], u[1]])

    starts, basis = jnp.array([[0.3, 0.4, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6]]), np.array([[1.0, 0, -1, 0]]).T
    options = {"basis": basis, "steps": 600, "transient": 100}
    both = fl.lyapunov_spectrum(step, jnp.zeros((2, 600, 1)), state=starts, batched=True, **options).exponents
    alone = fl.lyapunov_spectrum(step, None, state=starts[1], **options).exponents
    np.testing.assert_allclose(both[1], alone, atol=1e-6)


def test_ordinary_bases_do_not_warn(recwarn):
    cell = fl.cells.VanillaRNN(64, key=jax.random.key(0))
    inputs, signs = jnp.zeros((30, 1)), np.random.default_rng(0).choice([-1.0, 1.0], (64, 4))
    angle = 2 * np.pi * np.arange(64) / 64
    for basis in (signs, signs[:, :1], np.stack([np.cos(angle), np.sin(angle)], 1), np.eye(64)[:, :3]):
        fl.lyapunov_spectrum(cell, inputs, basis=basis)
    assert not [each for each in recwarn if "separates" in str(each.message)]


def test_a_run_in_float32_continues_in_its_subspace():
    """The basis of an earlier result is rounded, and agreeing coordinates differ by rounding."""
    with jax.enable_x64(False):
        weights = jax.random.normal(jax.random.key(0), (32, 32)) / jnp.sqrt(32)

        def step(h, _):
            modules = h.reshape(2, 32)
            return jnp.tanh(1.3 * (modules @ weights.T) + 0.4 * (modules[::-1] - modules)).ravel()

        state, across = jnp.tile(jax.random.normal(jax.random.key(1), (32,)), 2), np.zeros((64, 1), np.float32)
        across[0], across[32] = 1, -1
        options = {"steps": 400, "transient": 100}
        first = fl.lyapunov_spectrum(step, None, state=state, basis=across, **options)
        later = fl.lyapunov_spectrum(step, None, state=first.state, basis=first.basis, **options)
        np.testing.assert_allclose(later.exponents, first.exponents, atol=0.1)
        np.testing.assert_allclose(later.basis[:32] + later.basis[32:], 0, atol=1e-4)


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_rare_events_leave_a_subspace(library):
    """A diagonal step, rotated at five steps of 400, or of the second sequence alone: e1 is not mapped to itself."""
    rotation = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    events, basis = np.zeros((2, 400)), np.array([[1.0], [0.0]])
    events[1, [21, 83, 146, 227, 309]] = 1
    if library == "jax":
        step = lambda h, event: jnp.where(event > 0, rotation, jnp.diag(jnp.array([0.5, 0.9]))) @ h  # noqa: E731
        spectrum, state, sequences = fl.lyapunov_spectrum, jnp.ones(2), jnp.asarray(events)
    else:
        both = torch.stack([torch.diag(torch.tensor([0.5, 0.9], dtype=torch.float64)), torch.tensor(rotation)])
        step = lambda h, event: both[event.long()] @ h  # noqa: E731
        spectrum, state, sequences = flt.lyapunov_spectrum, torch.ones(2).double(), torch.tensor(events)
    v, growth = basis[:, 0], 0.0
    for event in events[1]:
        v = rotation @ v if event else np.array([0.5, 0.9]) * v
        growth += np.log(np.linalg.norm(v))
        v = v / np.linalg.norm(v)
    options = {"state": state, "basis": basis}
    alone = spectrum(step, sequences[1], **options).exponents
    np.testing.assert_allclose(alone, growth / 400, rtol=1e-9)
    many = spectrum(step, sequences, batched=True, **options).exponents
    np.testing.assert_allclose(many, [[np.log(0.5)], [growth / 400]], rtol=1e-9)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_flossing_that_leaves_the_subspace_of_its_basis_ends(library):
    """The identity as weights maps every subspace into itself; a step of the optimiser ends that."""
    inputs, basis, options = np.random.default_rng(0).normal(size=(20, 4)), np.eye(4)[:, :2], {"report": False}
    if library == "jax":
        options |= {"state": jnp.zeros(4), "step": lambda W, h, s: jnp.tanh(W @ h + s)}
        floss, model, sequence = fl.floss, jnp.eye(4), jnp.asarray(inputs)
    else:
        floss, model, sequence = flt.floss, torch.nn.RNN(4, 4, bias=False).double(), torch.tensor(inputs)
        model.weight_hh_l0.data.copy_(torch.eye(4))
    with pytest.raises(FloatingPointError, match=r"epoch 2: .*the weights no longer map the subspace of basis into"):
        floss(model, sequence, basis=basis, epochs=3, **options)
