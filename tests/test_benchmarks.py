"""All contenders of the benchmarks must do the same work: equal losses and gradients; and the table's arithmetic."""

import functools
import importlib
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from benchmarks import (
    __main__ as program,
    epochs,
    gpu,
    limits,
    memory,
    modules,
    ours,
    peers_jax,
    scaling,
    starts,
    table,
    turns,
)
from benchmarks.table import Comparison, Precision
from flossing_lab.reference import experiment as reference

UNITS, K, STEPS, TRANSIENT = 10, 4, 24, 12
CLOSE = {"rtol": 1e-8, "atol": 1e-12}


@pytest.fixture(params=["torch", "JAX"])
def peer(request):
    """A peer's functions, with converters for its arrays and its gradient function."""
    if request.param == "JAX":
        # A user's JAX has neither strict promotion nor strict ranks.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield peers_jax, jnp.asarray, _jax_gradient
    else:
        pytest.importorskip("torch")
        module = importlib.import_module("benchmarks.peers_torch")
        yield module, lambda a: module.tensors(a)[0], _torch_gradient


def _jax_gradient(loss, numbers, names):
    value, gradient = jax.jit(jax.value_and_grad(loss))({name: jnp.asarray(numbers[name]) for name in names})
    return float(value), {name: np.asarray(g) for name, g in gradient.items()}


def _torch_gradient(loss, numbers, names):
    module = importlib.import_module("benchmarks.peers_torch")
    parameters = module.as_parameters(numbers, names)
    value = loss(parameters)
    value.backward()
    return value.item(), {name: p.grad.numpy() for name, p in parameters.items()}


@functools.cache
def our_gradient():
    """The start, the bits, and our loss and gradient there."""
    numbers = starts.flossing_start(UNITS, K, dtype="float64")
    bits = np.random.default_rng(0).integers(0, 2, size=(STEPS, 1)).astype(float)
    cell = ours.cell_of(numbers)
    options = {"state": numbers["h"], "basis": numbers["basis"], "where": ours.flossed_leaves}
    options |= {"loss": fl.losses.exponents, "optimiser": ours.keep_gradient()}
    flossing = fl.Flossing(cell, bits, clip=None, interval=1, **options)
    assert flossing.transient == TRANSIENT == epochs.default_transient(STEPS)
    _, state, record = ours.update_once()(flossing, cell, flossing.init(cell), jax.random.key(0))
    return numbers, bits, record.loss, ours.flossed_leaves(state.opt_state)


def test_peers_floss_the_same(peer, optax_promotion):
    module, array, gradient_of = peer
    numbers, bits, expected_loss, expected = our_gradient()

    def loss(parameters):
        return module.flossing_loss(parameters, array(numbers["h"]), array(numbers["basis"]), array(bits), TRANSIENT)

    value, gradient = gradient_of(loss, numbers, starts.FLOSSED)
    np.testing.assert_allclose(value, expected_loss, **CLOSE)
    for name, leaf in zip(starts.FLOSSED, expected, strict=True):
        np.testing.assert_allclose(gradient[name], leaf, **CLOSE)


@functools.cache
def modules_and_peers():
    """For each row of section `pytorch`: the argument of `flossing.pytorch`, its parameters, and the peer's loss."""
    torch, peers = pytest.importorskip("torch"), importlib.import_module("benchmarks.peers_modules")
    double = {"dtype": torch.float64}
    bits, found = peers.random_bits(STEPS).double(), {}
    for cell in modules.CELLS:
        module, basis = peers.drawn_module(cell, UNITS, **double), peers.drawn_basis(cell, UNITS, K, **double)
        loss = functools.partial(peers.module_loss, cell, module, bits, basis, TRANSIENT)
        found[cell] = module, None, bits, basis, list(module.parameters()), loss
    step, parameters = peers.tanh_network(UNITS, **double)
    basis = peers.drawn_basis(None, UNITS, K, **double)
    ours = step, torch.zeros(UNITS, **double), bits, basis, parameters
    found["jacrev"] = *ours, functools.partial(peers.function_loss, step, bits, basis, TRANSIENT)
    found["derived"] = *ours, functools.partial(peers.derived_loss, parameters, bits, basis, TRANSIENT)
    return found


@pytest.mark.parametrize("name", [*modules.CELLS, "jacrev", "derived"])
def test_peers_floss_modules_the_same(name):
    """Loss and gradient, for all parameters."""
    torch, flt = pytest.importorskip("torch"), importlib.import_module("flossing.pytorch")
    network, state, bits, basis, parameters, loss = modules_and_peers()[name]
    spectrum = flt.lyapunov_spectrum(network, bits, state=state, basis=basis, transient=TRANSIENT)
    ours, theirs = flt.flossing_loss(spectrum.exponents), loss()
    np.testing.assert_allclose(theirs.item(), ours.item(), **CLOSE)
    both = (torch.autograd.grad(value, parameters) for value in (theirs, ours))
    for their_gradient, our_gradient in zip(*both, strict=True):
        np.testing.assert_allclose(their_gradient, our_gradient, **CLOSE)


@pytest.mark.parametrize("cell", ["nn.GRU", None])
def test_a_phase_of_a_module_ends_its_blocks(cell):
    torch = pytest.importorskip("torch")
    threads, turns_taken = torch.get_num_threads(), []
    size = {"units": UNITS, "k": K, "steps": STEPS, "threads": 1}
    try:
        intervals = modules.phase(lambda *work: turns_taken.append(work), cell=cell, blocks=2, chunk=3, **size)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert turns_taken == [(), (3,), (3,)]
    assert intervals.shape == (6,)


def test_peers_train_the_same(peer, optax_promotion):
    module, array, gradient_of = peer
    numbers = starts.training_start(UNITS, 3, dtype="float64")
    inputs, targets, mask = starts.xor_batch(3, STEPS, 2)
    model = ours.model_of(numbers)
    batch = fl.tasks.Trial(jnp.asarray(inputs), jnp.asarray(targets), jnp.broadcast_to(mask, targets.shape))
    both = eqx.filter_jit(eqx.filter_value_and_grad(reference.task_loss, has_aux=True))
    (value, metrics), expected = both(model, batch)

    accuracies = []

    def loss(parameters):
        found, accuracy = module.task_loss(parameters, array(inputs), array(targets), array(mask))
        accuracies.append(accuracy)
        return found

    found, gradient = gradient_of(loss, numbers, numbers)
    np.testing.assert_allclose(found, value, **CLOSE)
    if module is not peers_jax:  # traced there
        np.testing.assert_allclose(float(accuracies[0]), metrics["accuracy"], **CLOSE)
    np.testing.assert_allclose(gradient["x0"], expected.x0, **CLOSE)
    for name in ("J", "ws", "wr", "b", "offset"):
        np.testing.assert_allclose(gradient[name], getattr(expected.network, name), **CLOSE)


def test_the_xor_of_the_benchmarks_is_ours():
    inputs, targets, mask = starts.xor_batch(1, STEPS, 3, seed=5)
    bits = np.random.default_rng(5).integers(0, 2, size=(1, STEPS + 6)).astype(float)
    theirs = fl.tasks.TemporalXOR(steps=STEPS, delay=3).trial(jnp.asarray(bits[0, :, None]))
    np.testing.assert_array_equal(inputs[0], theirs.inputs)
    np.testing.assert_array_equal(targets[0], theirs.targets)
    np.testing.assert_array_equal(mask, theirs.mask)


def test_peers_clip_the_same(optax_promotion):
    gradients = {"J": np.full((2, 2), 3.0), "b": np.full(2, 1e-3), "x0": np.zeros(2)}
    expected, _ = fl.clip_by_array_norm(0.03).update(jax.tree.map(jnp.asarray, gradients), None)
    clipped, norms = peers_jax.clip_each(jax.tree.map(jnp.asarray, gradients))
    for name in gradients:
        np.testing.assert_allclose(clipped[name], expected[name], **CLOSE)
    np.testing.assert_allclose(norms["J"], 6.0)
    torch = pytest.importorskip("torch")
    from benchmarks.peers_torch import clip_each

    parameters = {name: torch.zeros(g.shape, dtype=torch.float64) for name, g in gradients.items()}
    for name, gradient in gradients.items():
        parameters[name].grad = torch.from_numpy(gradient)
    assert clip_each(parameters)["gradient_norm/J"] == pytest.approx(6.0)
    for name in gradients:
        np.testing.assert_allclose(parameters[name].grad.numpy(), expected[name], **CLOSE)


@pytest.mark.parametrize("name", ["lyapax", "chaotax"])
def test_peers_measure_the_same_exponents(name):
    pytest.importorskip(name)
    size = {"units": UNITS, "k": K, "steps": STEPS, "transient": 3}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        advance, other = ours.spectrum(**size), getattr(peers_jax, f"{name}_spectrum")(**size)
        advance(1)
        other(1)
    np.testing.assert_allclose(
        np.sort(other.result["exponents"]), np.sort(advance.result["exponents"]), rtol=1e-10, atol=1e-12
    )


def test_a_phase_leaves_gradients_to_compare(optax_promotion):
    turns_taken, size = [], {"units": UNITS, "k": K}
    try:
        with jax.enable_x64(False):
            phase = ours.flossing_phase(lambda *work: turns_taken.append(work), steps=STEPS, blocks=2, chunk=3, **size)
            common = size | {"samples": phase["samples"], "dtype": "float32"}
            single = ours.gradients(None, every_step=False, **common)
    finally:
        jax.config.update("jax_enable_x64", True)
    double = ours.gradients(None, every_step=True, **common | {"dtype": "float64"})
    assert turns_taken == [(), (3,), (3,)]
    assert phase["interval"].shape == (6,)
    np.testing.assert_array_equal(single["interval"], phase["interval"][[0, 3]])
    np.testing.assert_allclose(double["largest_exponent"], phase["largest_exponent"][[0, 3]], rtol=1e-5)
    assert single["gradient"].dtype == np.float32
    assert double["gradient"].dtype == np.float64
    assert epochs.relative_errors(single["gradient"], double["gradient"]).max() < 1e-3


def test_networks_at_once_equal_single_ones(optax_promotion):
    with jax.numpy_rank_promotion("allow"):
        assert gpu.deviation(networks=3, units=UNITS, steps=STEPS, k=K) < 1e-12


def deviation_over_devices(turn):
    """A contender of the next test."""
    assert len(jax.devices()) == 2
    return gpu.deviation(networks=4, units=UNITS, steps=STEPS, k=K)


@pytest.mark.slow
def test_networks_spread_over_devices_equal_single_ones():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    assert turns.in_process("tests.test_benchmarks:deviation_over_devices", environment=environment) < 1e-5


def test_exponents_of_a_power_law():
    x = [1, 2, 4, 8, 16]
    assert scaling.slope(x, [3 * v**1.5 for v in x]) == pytest.approx(1.5)
    assert scaling.slope([64, 128, 256], [scaling.work((64, 32, t)) for t in (64, 128, 256)]) == pytest.approx(1)
    lines = {
        v: {"sizes": [(8, 4, 10)] * 3, "x": x[:3], "seconds": x[:3], "bytes": x[:3]}
        | {f"{q}_{w}": 1.0 for q in ("seconds", "bytes") for w in ("exponent", "expected")}
        for v in "NkT"
    }
    assert len(scaling.draw(lines).axes) == 6


def test_decompositions_are_counted():
    assert epochs.decompositions(np.array([1]), 55, 16) == 55
    assert epochs.decompositions(np.array([4]), 10, 5) == len({4, 8, 5, 10})
    assert epochs.decompositions(np.array([4, 1]), 10, 0) == (3 + 10) / 2


def test_rows_know_their_goals():
    row = Comparison("work", "s", 0.5, "peer", 2.0, limit=0.25, error=(1e-5, 1e-4), least_ratio=4)
    assert (row.ratio, row.distance, row.reached) == (4.0, 2.0, True)
    assert Comparison("", "s", 0.5, "peer", 2.0, least_ratio=4.1).reached is False
    assert Comparison("", "s", 0.5, "peer", None, least_ratio=4).reached is None
    assert Comparison("", "/h", 19.0, "one", 10.0, least_ratio=1.9).reached is True
    assert Comparison("", "s", 3.0, limit=2.0, most_distance=1.5).reached is True
    assert Comparison("", "s", 3.1, limit=2.0, most_distance=1.5).reached is False
    assert Comparison("", "", 0, "first", 9, most=0).reached is True
    assert Comparison("", "", 1, "first", 9, most=0).reached is False


def test_the_table_renders():
    rows = [
        Comparison("flossing", "s", 0.0123, "PyTorch", 0.05, limit=0.01, error=(1e-5, 2e-4), least_ratio=4),
        Comparison("flossing", "s", 0.0123, "JAX | plain", None, remark="not installed"),
        Comparison("memory", "B", 3 * 2**30, "plain", 2**40),
        Precision("flossing", (4.0, 1, 16), 20, (1e-6, 1e-5), 12, None, (1e-6, 2e-6)),
    ]
    text = table.markdown(rows)
    assert (
        "| flossing | 12.3 ms | PyTorch | 50 ms | 4.07 | 10 ms | 1.23 | 1.0e-05, at most 2.0e-04 | ratio ≥ 4:" in text
    )
    assert "JAX \\| plain | - | - |" in text
    assert "3 GiB" in text
    assert "4 (1 to 16)" in text
    assert [table.from_plain(json.loads(json.dumps(table.to_plain(row)))) for row in rows] == rows
    assert (table.show(None, "s"), table.show(2e-5, "s"), table.show(90, "s")) == ("-", "20 µs", "1.5 min")


def test_the_page_is_what_the_results_say():
    assert program.PAGE.read_text("utf-8") == program.page(program.read_results())
    assert set(program.read_results()) <= set(program.SECTIONS)


def test_a_section_that_fails_costs_no_other(monkeypatch, tmp_path, capsys):
    def fails(say, quick):
        raise RuntimeError("no such thing")

    def works(say, quick):
        say("working")
        return [Comparison("a work", "s", 1.0, "peer", 5.0, least_ratio=4)]

    monkeypatch.setattr(program, "SECTIONS", {"bad": ("Bad", fails), "good": ("Good", works)})
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(program, "PAGE", tmp_path / "table.md")
    assert program.main(["--quick"]) == 1
    assert not program.RESULTS.exists()
    assert program.main(["--only", "bad"]) == 1
    assert program.main(["--only", "good"]) == 0
    assert "working" in capsys.readouterr().out
    results = program.read_results()
    assert list(results) == ["bad", "good"]
    assert results["good"]["cores"] in (1, 2)
    assert "failed: RuntimeError: no such thing" in program.PAGE.read_text("utf-8")
    assert "| a work | 1 s | peer | 5 s | 5.00 | ratio ≥ 4: reached |" in program.PAGE.read_text("utf-8")


def test_a_contender_that_is_not_there_costs_a_row():
    contender = turns.Contender("a_package_nobody_has:work")
    turns.take_turns([contender])
    assert (contender.pace, contender.mean, contender.result) == (None, None, None)
    assert contender.reason == "a_package_nobody_has is not installed"


def test_limits_take_the_fastest_way():
    first, second = (turns.Contender.__new__(turns.Contender) for _ in range(2))
    first.result = {"forward": {"NumPy": 3.0, "JAX": 2.0}, "qr": {"LAPACK": 5.0}}
    second.result = {"forward": {"NumPy": 1.0, "JAX": 4.0}, "qr": {"LAPACK": 6.0}}
    assert limits.fastest([first, second], "forward", "qr") == 6.0
    second.result = None
    assert limits.fastest([first, second], "forward") == 2.0
    assert limits.fastest([second], "forward") is None


def test_free_memory_is_known():
    assert 2**20 < memory.available() < 2**50


@pytest.mark.usefixtures("optax_promotion")
def test_training_as_a_run_does_it_can_be_timed():
    """Regression: a new argument of `TrainingEpoch` once broke a row of the table."""
    with jax.enable_x64(False):
        ours.training(units=6, batch=2, steps=12, delay=2)(3)


@pytest.mark.parametrize("cell", ["nn.RNN", "nn.LSTM"])
def test_batches_in_eager_torch_do_the_same_work(cell):
    torch = pytest.importorskip("torch")
    batches, peers = (importlib.import_module(f"benchmarks.{name}") for name in ("peers_batches", "peers_modules"))
    flt = importlib.import_module("flossing.pytorch")
    module, basis = peers.drawn_module(cell, UNITS, torch.float64), peers.drawn_basis(cell, UNITS, K, torch.float64)
    inputs = batches.random_bits(STEPS, 3).double()
    found = {}
    for who in ("ours", "eager"):
        module.zero_grad()
        if who == "ours":
            options = {"basis": basis, "transient": TRANSIENT}
            loss = flt.lyapunov_spectrum(module, inputs, **options).exponents.square().mean()
        else:
            loss = batches.batch_loss(cell, module, inputs, basis, TRANSIENT)
        loss.backward()
        found[who] = [loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]
    for mine, other in zip(found["ours"], found["eager"], strict=True):
        np.testing.assert_allclose(mine, other, **CLOSE)
