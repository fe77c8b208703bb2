"""Covariant vectors against eigenvectors, and against their definition: the Jacobian maps each onto the next."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing._spectra.covariant import angle_between_subspaces, angles_between, covariant_flow, covariant_vectors
from flossing.cells import VanillaRNN
from tests.helpers import problem_of

KEY = jax.random.key(1)
EXACT = {"rtol": 0, "atol": 1e-10}
NETWORK = VanillaRNN(6, 6, key=jax.random.key(18), gain=2.0)  # its exponents are at least 0.46 apart
SIGNAL = jax.random.normal(jax.random.key(2), (300, 6))


def henon(h, _):
    return jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])


def lattice(x, _):
    """Six logistic maps, no two alike, coupled to their neighbours on a ring."""
    f = 1 - jnp.linspace(1.7, 1.95, 6) * x**2
    return 0.8 * f + 0.1 * (jnp.roll(f, 1) + jnp.roll(f, -1))


def network(h, s):
    return NETWORK(s, h)


def linear(matrix):
    return lambda h, _: matrix @ h


# step, first state, inputs, steps
SYSTEMS = {
    "henon": (henon, jnp.array([0.1, 0.1]), None, 500),
    "lattice": (lattice, jnp.linspace(-0.3, 0.4, 6), None, 500),
    "network": (network, jnp.zeros(6), SIGNAL, None),
}


@functools.cache
def run(name, **options):
    step, state, inputs, steps = SYSTEMS[name]
    options = {"transient": 0, "backward_transient": 0} | options
    return covariant_vectors(step, inputs, state=state, steps=steps, key=KEY, **options)


@functools.cache
def jacobians(name):
    """D of the step that each of the states of `run(name, backward_transient=100)` enters, by jacfwd: (n, N, N)."""
    step, _, inputs, _ = SYSTEMS[name]
    return jax.jit(jax.vmap(jax.jacfwd(step)))(
        run(name, backward_transient=100).states, None if inputs is None else inputs[:-100]
    )


def gram_schmidt(name):
    """Q before each step and log diag R of it (n, k), in plain numpy."""
    q, qs, growth = np.asarray(basis_of(name)), [], []
    for jacobian in np.asarray(jacobians(name)):
        qs.append(q)
        q, r = np.linalg.qr(jacobian @ q)
        q = q * np.sign(np.diag(r))
        growth.append(np.log(np.abs(np.diag(r))))
    return np.stack(qs), np.stack(growth)


def basis_of(name):
    units = SYSTEMS[name][1].size
    return fl.orthonormalise(jax.random.normal(KEY, (units, units)))[0]


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_vector_is_mapped_onto_the_next(name):
    result = run(name, backward_transient=100)
    v = result.vectors
    pushed = jnp.einsum("tij,tjk->tik", jacobians(name), v)
    np.testing.assert_allclose(jnp.linalg.norm(v, axis=1), 1, **EXACT)
    lengths = jnp.linalg.norm(pushed, axis=1)
    np.testing.assert_allclose(pushed[:-1] / lengths[:-1, None, :], v[1:], rtol=0, atol=1e-8)
    np.testing.assert_allclose(jnp.log(lengths), result.log_growth, rtol=0, atol=1e-8)
    np.testing.assert_allclose(result.log_growth.mean(0), result.exponents, **EXACT)
    step, _, inputs, _ = SYSTEMS[name]
    after = jax.vmap(step)(result.states, None if inputs is None else inputs[:-100])
    np.testing.assert_allclose(after[:-1], result.states[1:], **EXACT)


@pytest.mark.parametrize("name", SYSTEMS)
def test_growth_is_that_of_gram_schmidt_up_to_the_boundary(name):
    """V = Q C with C triangular: each growth is log R_ii plus the change of log C_ii, and that sums to the ends."""
    result = run(name, backward_transient=100)
    q, log_r = gram_schmidt(name)
    log_c = np.log(np.einsum("tik,tik->tk", q, result.vectors))
    np.testing.assert_allclose((result.log_growth - log_r)[:-1], log_c[:-1] - log_c[1:], rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        result.log_growth[:-1].sum(0), log_r[:-1].sum(0) + log_c[0] - log_c[-1], rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(result.vectors[:, :, 0], q[:, :, 0], rtol=0, atol=1e-8)


def test_exponents_are_those_of_lyapunov_spectrum_up_to_the_boundary():
    spectrum = fl.lyapunov_spectrum(network, SIGNAL[:200], state=jnp.zeros(6), key=KEY, transient=0)
    result = run("network", backward_transient=100)
    assert len(result.log_growth) == spectrum.steps == 200
    np.testing.assert_allclose(result.exponents, spectrum.exponents, rtol=0, atol=5 / 200)


def test_exponents_per_unit_of_time():
    step, state, inputs, steps = SYSTEMS["henon"]
    per_step = covariant_vectors(step, inputs, state=state, steps=steps)
    per_time = covariant_vectors(step, inputs, state=state, steps=steps, time_step=0.25)
    np.testing.assert_allclose(per_time.exponents, 4 * per_step.exponents, rtol=1e-14)
    np.testing.assert_array_equal(per_time.log_growth, per_step.log_growth)
    with pytest.raises(ValueError, match="time_step must be"):
        covariant_vectors(step, inputs, state=state, steps=steps, time_step=0.0)


@pytest.mark.parametrize("block", [None, 7, 1000])
def test_constant_matrix_gives_its_eigenvectors(block):
    moduli = np.array([3.0, -2.0, 1.2, 0.6, -0.3])
    eigenvectors = np.random.default_rng(0).normal(size=(5, 5))
    matrix = jnp.asarray(eigenvectors @ np.diag(moduli) @ np.linalg.inv(eigenvectors))
    options = {"steps": 200, "transient": 93, "backward_transient": 90}
    result = covariant_vectors(linear(matrix), None, state=jnp.zeros(5), block=block, **options)
    assert result.vectors.shape == (17, 5, 5)
    cosines = np.einsum("ik,tik->tk", eigenvectors / np.linalg.norm(eigenvectors, axis=0), result.vectors)
    np.testing.assert_allclose(np.abs(cosines), 1, **EXACT)
    # The flow carries the sign on: a negative eigenvalue turns its vector round.
    np.testing.assert_array_equal(np.sign(cosines[1:] * cosines[:-1]), np.tile(np.sign(moduli), (16, 1)))
    np.testing.assert_allclose(result.log_growth, np.tile(np.log(np.abs(moduli)), (17, 1)), **EXACT)


def test_fixed_point_of_henon():
    """At x = 1 - 1.4 x^2 + 0.3 x the vectors are the eigenvectors of the Jacobian."""
    x = (-0.7 + np.sqrt(0.49 + 5.6)) / 2.8
    # The fixed point is unstable: a short run, before rounding has led away from it.
    result = covariant_vectors(
        henon, None, state=jnp.array([x, 0.3 * x]), steps=30, transient=13, backward_transient=13
    )
    values, eigenvectors = np.linalg.eig(np.array([[-2.8 * x, 1], [0.3, 0]]))
    order = np.argsort(-np.abs(values))
    cosines = np.einsum("ik,tik->tk", eigenvectors[:, order], result.vectors)
    np.testing.assert_allclose(np.abs(cosines), 1, **EXACT)
    np.testing.assert_allclose(result.exponents, np.log(np.abs(values[order])), rtol=0, atol=1e-9)


def test_transient_and_settling_make_the_vectors_those_of_the_orbit():
    """Another first basis and another end: the same vectors in between, up to their sign."""
    here = run("network", backward_transient=100)
    other = covariant_vectors(
        network, SIGNAL[:280], state=jnp.zeros(6), key=jax.random.key(9), transient=100, backward_transient=130
    )
    cosines = np.einsum("tik,tik->tk", here.vectors[100:150], other.vectors)
    np.testing.assert_allclose(np.abs(cosines), 1, **EXACT)
    np.testing.assert_allclose(here.log_growth[100:150], other.log_growth, **EXACT)
    np.testing.assert_allclose(here.states[100:150], other.states, **EXACT)


@pytest.mark.parametrize("block", [1, 7, 300])
def test_block_does_not_change_the_result(block):
    ours, other = run("network", backward_transient=100), run("network", backward_transient=100, block=block)
    for a, b in zip(jax.tree_util.tree_leaves(ours), jax.tree_util.tree_leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **EXACT)


def test_first_k_of_the_full_set():
    k = 3
    full = run("network", backward_transient=100)
    part = covariant_vectors(
        network, SIGNAL, state=jnp.zeros(6), basis=basis_of("network")[:, :k], backward_transient=100
    )
    np.testing.assert_allclose(part.vectors, full.vectors[:, :, :k], **EXACT)
    np.testing.assert_allclose(part.log_growth, full.log_growth[:, :k], **EXACT)


def test_measure_stores_what_could_be_computed_afterwards():
    def measure(vectors):
        return {"pairs": angles_between(vectors), "split": angle_between_subspaces(vectors, 2)}

    result, plain = run("network", backward_transient=100, measure=measure), run("network", backward_transient=100)
    assert result.vectors is None
    assert result.states is None
    assert plain.measured is None
    np.testing.assert_allclose(result.log_growth, plain.log_growth, **EXACT)
    expected = jax.vmap(measure)(plain.vectors)
    for name in expected:
        np.testing.assert_allclose(result.measured[name], expected[name], **EXACT)


def test_angles():
    angles = np.array([0, 1e-9, 0.3, np.pi / 2, np.pi - 1e-9])
    columns = np.stack([np.cos(angles), np.sin(angles)]) * np.array([1, -2, 3, 4, 0.5])
    apart = np.abs(angles[:, None] - angles)
    np.testing.assert_allclose(angles_between(columns), np.minimum(apart, np.pi - apart), rtol=1e-7, atol=1e-16)


@pytest.mark.parametrize("angle", [1e-9, 0.3, np.pi / 2])
@pytest.mark.parametrize("split", [1, 2])
def test_angle_between_subspaces(angle, split):
    """Planes and lines of R^4 that lean towards each other by `angle`, in skew bases, turned at random."""
    lean = np.array([[np.cos(angle), 0, np.sin(angle), 0]]).T
    first, rest = np.eye(4)[:, [0, 1][:split]], np.concatenate([lean, np.eye(4)[:, [3]]], axis=1)
    generator = np.random.default_rng(0)
    first = first @ generator.normal(size=(split, split))
    rest = rest @ generator.normal(size=(2, 2))
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    result = angle_between_subspaces(turn @ np.concatenate([first, rest], axis=1), split)
    np.testing.assert_allclose(result, angle, rtol=1e-5)


def test_pytree_state_with_a_key():
    """Leaves without a tangent ride along, and a block computed twice draws the same noise."""

    def noisy(state, _):
        key, now = jax.random.split(state["key"])
        return {"key": key, "h": network(state["h"], jax.random.normal(now, (6,)))}

    state = {"key": KEY, "h": jnp.zeros(6)}
    result = covariant_vectors(noisy, None, state=state, steps=60, k=2, block=7, transient=0, backward_transient=0)
    again = jax.vmap(noisy, in_axes=(0, None))(result.states, None)
    np.testing.assert_allclose(again["h"][:-1], result.states["h"][1:], **EXACT)
    assert (jax.random.key_data(again["key"])[:-1] == jax.random.key_data(result.states["key"])[1:]).all()
    assert np.isfinite(result.vectors).all()


def test_float32_in_float32_out():
    state = jnp.array([0.1, 0.1], "f4")
    result = covariant_vectors(
        henon, None, state=state, steps=50, measure=angles_between, transient=0, backward_transient=0
    )
    assert {leaf.dtype for leaf in jax.tree_util.tree_leaves(result)} == {jnp.dtype("f4")}
    # A step that shrinks so much that squares underflow: log R_ii is seen, nothing overflows.
    tiny = covariant_vectors(
        lambda h, _: jnp.array([1e-25, 1e-26], "f4") * h,
        None,
        state=state,
        steps=9,
        basis=np.eye(2),
        backward_transient=0,
    )
    np.testing.assert_allclose(tiny.exponents, np.log([1e-25, 1e-26]), rtol=1e-6)


def test_jit_vmap_and_a_cached_module():
    class Driven(eqx.Module):
        cell: VanillaRNN

        def __call__(self, s, h):
            return self.cell(s, h)

    signals = SIGNAL.reshape(3, 100, 6)
    many = jax.jit(
        jax.vmap(lambda s: covariant_vectors(network, s, state=jnp.zeros(6), k=3, transient=0, backward_transient=0))
    )(signals)
    for index, signal in enumerate(signals):
        one = covariant_vectors(Driven(NETWORK), signal, state=jnp.zeros(6), k=3, transient=0, backward_transient=0)
        np.testing.assert_allclose(many.vectors[index], one.vectors, **EXACT)
        np.testing.assert_allclose(many.log_growth[index], one.log_growth, **EXACT)


SINGULAR = jnp.diag(jnp.array([2.0, 1.0, 0.0]))


def projected(h, s):
    """Loses one direction in the step whose input is 1."""
    matrix = NETWORK.J[:3, :3]
    return (matrix + s * (SINGULAR - matrix)) @ h


def test_a_lost_vector_is_an_error():
    pulse = jnp.zeros(30).at[17].set(1.0)
    message = r"Jacobians of rank k or more, got one of rank 2 .* at step 17, in which vector 2 and the later ones"
    with pytest.raises(ValueError, match=message) as caught:
        covariant_vectors(projected, pulse, state=jnp.zeros(3), transient=5, backward_transient=0)
    assert "\n" not in str(caught.value)
    # But not in the transient.
    assert np.isfinite(
        covariant_vectors(projected, pulse, state=jnp.zeros(3), transient=18, backward_transient=0).vectors
    ).all()


def test_a_lost_vector_inside_jit_is_marked_and_leaves_the_others_alone():
    pulse = jnp.zeros(30).at[17].set(1.0)
    options = {"key": KEY, "backward_transient": 5}
    full = jax.jit(lambda s: covariant_vectors(projected, s, state=jnp.zeros(3), basis=jnp.eye(3), **options))(pulse)
    part = covariant_vectors(projected, pulse, state=jnp.zeros(3), basis=np.eye(3)[:, :2], **options)
    np.testing.assert_allclose(full.vectors[:, :, :2], part.vectors, **EXACT)
    np.testing.assert_allclose(full.log_growth[:, :2], part.log_growth, **EXACT)
    assert np.isneginf(full.exponents[2])
    assert np.isneginf(full.log_growth[:, 2]).all()
    assert np.isnan(full.vectors[:, :, 2]).all()


def test_a_block_that_comes_out_differently_the_second_time_is_an_error():
    """Noise of the order of rounding, not the same in both passes, on a chaotic orbit."""
    generator = np.random.default_rng(0)

    def unsteady(h, _):
        noise = jax.pure_callback(lambda: 1e-15 * generator.normal(size=2), jax.ShapeDtypeStruct((2,), h.dtype))
        return henon(h + noise, None)

    with pytest.raises(ValueError, match="block must be so short .* got block=200 and bases .* apart"):
        covariant_vectors(
            unsteady, None, state=jnp.array([0.1, 0.1]), steps=400, block=200, transient=0, backward_transient=0
        )


def test_blocks_come_out_the_same_the_second_time():
    """To the last bit, or chaos would tear long blocks apart: what storing their starts alone rests on."""
    _, state, _, _ = SYSTEMS["lattice"]
    flow = jax.jit(functools.partial(covariant_flow, stops=(0, 1000, 1000), block=500), static_argnums=2)
    _, trace = flow(problem_of(lattice, state, None, 1000), jnp.eye(6), None, None)
    assert trace.gap < 1e-8


GOOD = {
    "model": lambda h, s: jnp.tanh(h) + s,
    "state": jnp.zeros(3),
    "inputs": jnp.ones((10, 3)),
    "transient": 0,
    "backward_transient": 0,
}

CASES = [
    ({"k": 4}, r"k must be an integer from 1 to 3 \(the state has 3 real coordinates\), got k=4"),
    ({"k": 0}, "k must be an integer from 1 to 3"),
    ({"transient": 10}, r"transient must be an integer from 0 to 9 \(the run has 10 steps\), got transient=10"),
    ({"backward_transient": 10}, "backward_transient must be an integer from 0 to 9"),
    (
        {"transient": 4, "backward_transient": 6},
        r"backward_transient.* from 0 to 5 \(the run has 10 steps, transient=4\), got backward_transient=6",
    ),
    ({"backward_transient": -1}, "backward_transient must be an integer from 0 to 9"),
    ({"block": 0}, "block must be an integer of at least 1, got block=0"),
    ({"basis": np.ones((3, 2))}, "basis must have linearly independent columns"),
    ({"inputs": None}, "steps must be given for an autonomous system"),
    ({"model": lambda h, s: h**3 + 10 * s, "transient": 2}, "tangents finite, got NaN or infinity at step 6: check"),
    ({"model": lambda h, s: 0 * h}, "Jacobians of rank k or more, got one of rank 0 up to rounding at step 0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        covariant_vectors(**(GOOD | change))
    assert "\n" not in str(caught.value)


def test_bad_angles():
    with pytest.raises(
        ValueError, match=r"vectors must have shape \(N, k\) with k of at least 1, got shape \(2, 3, 3\)"
    ):
        angles_between(np.ones((2, 3, 3)))
    with pytest.raises(ValueError, match=r"split must be an integer from 1 to 2 \(there are 3 vectors\), got split=3"):
        angle_between_subspaces(np.eye(3), 3)
    with pytest.raises(ValueError, match="vectors must have shape .* with k of at least 2"):
        angle_between_subspaces(np.ones((3, 1)), 1)
