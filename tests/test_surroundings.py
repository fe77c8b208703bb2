"""The surroundings of a call leave its numbers alone, and it leaves them alone: jit switched off, a mesh of devices,
other threads. Each mesh of devices needs a process of its own, since JAX reads the number of devices once."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import flossing as fl

W = 0.8 * np.asarray(jax.random.normal(jax.random.key(0), (4, 4)))
ZERO = np.zeros(4)
INPUTS = np.asarray(jax.random.normal(jax.random.key(1), (12, 4)))
CELL = fl.cells.VanillaRNN(4, key=jax.random.key(0))
DRIVE = INPUTS[:, :1]


def network(W):
    return lambda h, s: jnp.tanh(W @ h + s)


def exponents(W, x, **options):
    return fl.lyapunov_spectrum(network(W), x, state=ZERO, k=2, **options).exponents


def flossed(**options):
    return fl.floss(CELL, DRIVE, k=2, epochs=3, **options)[1].exponents


def trained():
    def loss(model, target):
        return sum(jnp.sum((leaf - target) ** 2) for leaf in jax.tree.leaves(model)), {}

    flossing, optimiser = fl.Flossing(CELL, DRIVE, k=2), optax.adam(1e-2)
    chunks = fl.train(
        fl.init_training(CELL, optimiser, flossing),
        loss=loss,
        batch=jax.random.normal,
        optimiser=optimiser,
        epochs=3,
        flossing=flossing,
        schedule=lambda epoch, measures: 2,
        term=fl.FlossingTerm(0.1, 2),
        chunk=2,
    )
    return [chunk.metrics for chunk in chunks]


TALL = np.asarray(jax.random.normal(jax.random.key(5), (400, 32)))

MEASUREMENTS = {
    "orthonormalise": lambda: fl.orthonormalise(jnp.asarray(INPUTS[:, :3])),
    "orthonormalise, tall": lambda: fl.orthonormalise(jnp.asarray(TALL)),
    "orthonormalise, vmap of grad": lambda: jax.vmap(jax.grad(lambda a: fl.orthonormalise(a)[1][0]))(
        jnp.stack([W, 2 * W])
    ),
    "lyapunov_spectrum": lambda: exponents(W, INPUTS),
    "lyapunov_spectrum, auto": lambda: exponents(W, INPUTS, interval="auto"),
    "lyapunov_spectrum, batched": lambda: exponents(W, np.stack([INPUTS, 2 * INPUTS]), batched=True),
    "lyapunov_spectrum, vmap": lambda: jax.vmap(lambda g: exponents(g * W, INPUTS))(jnp.array([0.5, 1.0])),
    "lyapunov_spectrum, grad": lambda: jax.grad(lambda W: exponents(W, INPUTS).sum())(jnp.asarray(W)),
    "long_term_jacobian": lambda: fl.long_term_jacobian(network(W), INPUTS, state=ZERO, horizons=[3, 12]),
    "long_term_jvp": lambda: fl.long_term_jvp(network(W), INPUTS, np.eye(4), state=ZERO),
    "covariant_vectors": lambda: fl.covariant_vectors(network(W), INPUTS, state=ZERO, k=3),
    "backpropagated_norms": lambda: fl.backpropagated_norms(
        network(W), INPUTS, lambda h: (h[-1] ** 2).sum(), state=ZERO
    ),
    "floss": flossed,
    "floss, rematerialise": lambda: flossed(rematerialise=True),
    "train": trained,
}


def assert_same(results, right):
    for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("orthonormalise", "lyapunov_spectrum") else [pytest.mark.slow])
        for name in MEASUREMENTS
    ],
)
def test_without_jit_the_numbers_are_the_same(name):
    measure = MEASUREMENTS[name]
    with jax.disable_jit():
        eager = measure()
    assert_same(eager, measure())  # in this order, so that what the first call caches must serve the second


# Everything from here on to `on_four_devices` runs in a process with four devices.

MANY = np.asarray(jax.random.normal(jax.random.key(1), (8, 12, 4)))


class Step(eqx.Module):
    W: jax.Array

    def __call__(self, s, h):
        return jnp.tanh(self.W @ h + s)


def updated(x, **options):
    # With a weight that all devices share, `shard_map` would sum its gradient over them, as JAX does.
    model = Step(W * (1 + 0 * x[0, 0]))
    flossing = fl.Flossing(model, x, state=ZERO, k=2, **options)
    model, _, record = flossing.update(model, flossing.init(model), jax.random.key(0))
    return record.exponents, model.W


def counting(x):
    def step(state, s):
        return jnp.tanh(W @ state["h"] + s), state["count"] + 1

    start = {"h": ZERO, "count": np.array(0)}
    spectrum = fl.lyapunov_spectrum(lambda h, s: dict(zip(("h", "count"), step(h, s), strict=True)), x, state=start)
    return spectrum.exponents, spectrum.state


def forgetful(x):
    # What does not depend on anything varies over no axis, in the middle of a loop as well as at its start.
    return fl.lyapunov_spectrum(
        lambda h, s: {"a": jnp.tanh(h["a"] + s), "b": jnp.ones(4)}, x, state={"a": ZERO, "b": ZERO}
    )


EACH = {
    "function": lambda x: exponents(W, x),
    "module": lambda x: fl.lyapunov_spectrum(Step(jnp.asarray(W)), x, state=ZERO, k=2),
    "interval": lambda x: exponents(W, x, interval=4),
    "own start": lambda x: fl.lyapunov_spectrum(network(W), x, state=x[0], k=2),
    "own basis": lambda x: fl.lyapunov_spectrum(network(W), x, state=ZERO, basis=x[:4, :2]).exponents,
    "own module": lambda x: fl.lyapunov_spectrum(Step(W * (1 + 0.1 * x[0, 0])), x, state=ZERO, k=2),
    "closed over, autonomous": lambda x: fl.lyapunov_spectrum(
        lambda h, _: jnp.tanh(W * (1 + 0.1 * x[0, 0]) @ h), None, state=ZERO + 0.1, steps=12, k=2
    ),
    "counter": counting,
    "forgetful": lambda x: forgetful(x).log_growth,
    "batch": lambda x: (
        fl.lyapunov_spectrum(network(W), jnp.stack([x, 2 * x]), state=np.ones((2, 4)), k=2, batched=True).exponents
    ),
    "grad": lambda x: jax.grad(lambda x: exponents(W, x).sum())(x),
    "grad of weights": lambda x: jax.grad(lambda W: exponents(W, x).sum())(W * (1 + 0 * x[0, 0])),
    "orthonormalise": lambda x: jax.grad(lambda x: fl.orthonormalise(x[:4, :3])[1].sum())(x),
    "long_term_jacobian": lambda x: fl.long_term_jacobian(network(W), x, state=ZERO, horizons=[3, 12]),
    "long_term_jvp": lambda x: fl.long_term_jvp(network(W), x, np.eye(4), state=ZERO),
    "long_term_vjp": lambda x: fl.long_term_vjp(network(W), x, np.eye(4), state=ZERO),
    "covariant_vectors": lambda x: fl.covariant_vectors(network(W), x, state=ZERO, k=3),
    "measure": lambda x: fl.covariant_vectors(network(W), x, state=ZERO, k=3, measure=fl.angles_between),
    "backpropagated_norms": lambda x: (
        fl.backpropagated_norms(network(W), x, lambda h: (h[-1] ** 2).sum(), state=ZERO).log_norm
    ),
    "gradient_reach": lambda x: fl.gradient_reach(Step(W * (1 + 0 * x[0, 0])), x, state=ZERO),
    "reachability": lambda x: fl.reachability(network(W), x, state=ZERO),
    "newton_iterations": lambda x: fl.newton_iterations(network(W), x, state=ZERO),
    "update": updated,
    "update at a fixed interval": lambda x: updated(x, interval=2),
    "update, rematerialise": lambda x: updated(x, rematerialise=True),
}


def shard(mesh, **options):
    def run(each):
        with jax.set_mesh(mesh):
            return jax.jit(jax.shard_map(jax.vmap(each), in_specs=P("b"), out_specs=P("b"), **options))(on(mesh, MANY))

    return run


def split(each):
    results = jax.pmap(jax.vmap(each))(MANY.reshape(4, 2, *MANY.shape[1:]))
    return jax.tree.map(lambda leaf: leaf.reshape(8, *leaf.shape[2:]), results)


def on_explicit_axes(each):
    mesh = jax.make_mesh((4,), ("b",))
    with jax.set_mesh(mesh):
        return jax.jit(jax.vmap(each))(on(mesh, MANY)), jax.vmap(each)(on(mesh, MANY))


def on(mesh, x):
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, P("b")))


def automatic():
    return jax.make_mesh((4,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))


SURROUNDINGS = {
    "shard_map": lambda each: shard(automatic())(each),
    "shard_map, check_vma=False": lambda each: shard(automatic(), check_vma=False)(each),
    "shard_map, explicit axes": lambda each: shard(jax.make_mesh((4,), ("b",)))(each),
    "pmap": split,
    "explicit axes": on_explicit_axes,
}


FEW = ("function", "module", "counter", "update")


def check(surroundings, names=tuple(EACH)):
    """Each measurement of the batch there -> the numbers of `vmap`."""
    assert len(jax.devices()) == 4
    for name in names:
        each = EACH[name]
        print(surroundings, name, flush=True)
        right = jax.vmap(each)(MANY)
        results = SURROUNDINGS[surroundings](each)
        assert_same(results, (right, right) if surroundings == "explicit axes" else right)


def continued(x, starts):
    """A batch on a mesh, continued from its own state and basis."""
    first = fl.lyapunov_spectrum(network(W), x, state=starts, k=2, interval="auto", batched=True)
    again = fl.lyapunov_spectrum(network(W), x, state=first.state, basis=first.basis, batched=True)
    return first.exponents, again.exponents, again.mean(), again.standard_error()


def check_batches():
    starts = MANY[:, 0]
    right = continued(MANY, starts)
    for mesh in (automatic(), jax.make_mesh((4,), ("b",))):
        with jax.set_mesh(mesh):
            assert_same(continued(on(mesh, MANY), on(mesh, starts)), right)
            one = jax.jit(lambda x: exponents(W, x, batched=True))(on(mesh, MANY))
            assert_same(one, exponents(W, MANY, batched=True))
    with pytest.raises(ValueError, match=r"inputs lies on a mesh with explicit axes b: enter it with jax.set_mesh"):
        exponents(W, on(jax.make_mesh((4,), ("b",)), MANY), batched=True)


def on_four_devices(call):
    # The package of the tests sets flags of its own, so the devices come first.
    code = "import jax; jax.config.update('jax_enable_x64', True); jax.devices()"
    code += f"; from tests.test_surroundings import *; {call}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run(code, environment)


def run(code, environment):
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_on_several_devices_a_few_numbers_are_those_of_vmap():
    on_four_devices("[check(each, FEW) for each in ('shard_map', 'explicit axes')]")


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_on_several_devices_all_numbers_are_those_of_vmap(surroundings):
    on_four_devices(f"check({surroundings!r})")


@pytest.mark.slow
def test_a_batch_that_lies_on_a_mesh():
    on_four_devices("check_batches()")


# Threads.


def in_a_process_with_two_blas_threads(code):
    code = "from tests.blas_threads import *\n" + textwrap.dedent(code)
    run(code, os.environ | {"OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"})


def test_threads_that_overlap_restore_the_limit():
    in_a_process_with_two_blas_threads("""
        before = blas_threads()
        for leaves_first in (0, 1, 0):
            overlap(leaves_first)
            assert blas_threads() == before
    """)


def test_an_exception_and_a_nested_call_restore_the_limit():
    in_a_process_with_two_blas_threads("""
        before = blas_threads()
        try:
            with one_lapack_thread():
                with one_lapack_thread():
                    pass
                assert set(blas_threads()) == {1}
                raise KeyError
        except KeyError:
            pass
        assert blas_threads() == before
        with one_lapack_thread():
            assert set(blas_threads()) == {1}
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_inherit_the_limit_of_another_thread():
    in_a_process_with_two_blas_threads("""
        before, inside, leave = blas_threads(), threading.Event(), threading.Event()

        def work():
            with one_lapack_thread():
                inside.set()
                leave.wait()

        def child(succeeds):
            pid = os.fork()
            if not pid:
                os._exit(0 if succeeds() else 1)
            return os.waitpid(pid, 0)[1] == 0

        def limits_again():
            with one_lapack_thread():
                limited = blas_threads()
            return set(limited) == {1} and blas_threads() == before

        thread = threading.Thread(target=work)
        thread.start()
        inside.wait()
        assert child(lambda: blas_threads() == before) and child(limits_again)
        assert set(blas_threads()) == {1}  # here the other thread is still inside
        leave.set()
        thread.join()
        assert blas_threads() == before
        with one_lapack_thread():
            pid = os.fork()
        if not pid:
            os._exit(0 if blas_threads() == before else 1)
        assert os.waitpid(pid, 0)[1] == 0
    """)
