"""Fixed networks in `flossing compare`, the training of one network, and the committed protocols."""

import json
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import flossing as fl
from flossing_lab import statistics
from flossing_lab.cli import main
from flossing_lab.comparison import making, runs as trial_runs, seeds
from flossing_lab.comparison.protocol import Trial, TrialRun, read_trial
from flossing_lab.comparison.sections import TrialArm
from flossing_lab.comparison.training import Settings, test_data as data_of, train_network
from flossing_lab.runs.catalogue import TASKS
from flossing_lab.runs.trials import Batch, Loss
from tests.test_compare import HEAD

COMMITTED = Path(__file__).parents[1] / "comparison"
FIXED = (
    HEAD
    + """[networks]
tanh = { cell = "tanh" }
"tanh, gain 2" = { cell = "tanh", options = { gain = 2.0 } }

[arms]
none = { epochs = 6 }
memory = { before = 3, loss = "memory" }
"""
)
TASK = fl.tasks.TemporalXOR(steps=12, delay=2)


@pytest.fixture
def protocol(tmp_path):
    (tmp_path / "fixed.toml").write_text(FIXED)
    return tmp_path / "fixed.toml"


@pytest.mark.usefixtures("optax_promotion")
def test_fixed_networks_run_with_seeds_alone(protocol, in_this_process):
    main(["compare", str(protocol), "--workers", "1"])
    ((first, *_, last),) = in_this_process
    assert (first, last) == ("xor-tanh-000-none-seed1", "xor-tanh,-gain-2-000-memory-seed2")
    out = protocol.with_suffix("")
    found = {(r["network"], r["arm"], r["seed"]): r for r in trial_runs.read_results(out)}
    assert len(found) == 2 * 2 * 2
    without, flossed = found["tanh", "none", 1], found["tanh", "memory", 1]
    assert (without["epochs"], flossed["epochs"]) == (6, 4)
    assert without["exponents"]["start"] == flossed["exponents"]["start"] != flossed["exponents"]["flossed"]
    assert without["seconds"]["flossing"] == 0 < flossed["seconds"]["flossing"]
    text = (out / "table.md").read_text()
    assert "| network | no flossing | memory |" in text and "8 runs, 20" in text and "All 8 runs are made." in text
    before = (out / "results.json").read_bytes()
    main(["compare", str(protocol), "--table"])
    assert (out / "results.json").read_bytes() == before  # nothing new: also the date stays

    elsewhere = json.loads(before) | {"processor": "Another"}
    elsewhere["runs"].pop()
    (out / "results.json").write_text(json.dumps(elsewhere))
    main(["compare", str(protocol), "--table"])
    made = json.loads((out / "results.json").read_text())
    assert made["processor"] == f"Another or {json.loads(before)['processor']}" and len(made["runs"]) == 8


def test_the_table_of_seeds(protocol):
    """Nine of ten at 0.97, one failed: the rate with its interval, the median, epochs of the solved, seconds."""
    trial = read_trial(protocol)
    each = {"task": "xor", "network": "tanh", "arm": "memory", "draw": 0, "accuracy": 0.97, "failure": None}
    ended = [
        each | {"seed": seed, "epochs": 100 * seed, "seconds": {"flossing": 5.0, "training": 3.0}}
        for seed in range(1, 10)
    ]
    ended.append(ended[0] | {"seed": 10, "failure": "training epoch 3: loss is nan"})
    text = seeds.markdown(trial, ended)
    assert "| tanh |  | **9 of 10** (0.60 to 0.98), 0.970, 500 epochs, 5 + 3 s, 1 failed |" in text
    assert "gain 2" not in text  # no run of it
    failed = [run | {"failure": "flossing epoch 1"} for run in ended]
    assert "**0 of 10** (0.00 to 0.28), failed, 5 + 3 s, 10 failed |" in seeds.markdown(trial, failed)
    np.testing.assert_allclose(statistics.wilson(9, 10), (0.5958, 0.9821), atol=1e-4)  # as in any table of it
    np.testing.assert_allclose(statistics.wilson(0, 10), (0.0, 0.2775), atol=1e-4)


OWN = """
import equinox as eqx
import jax
import jax.numpy as jnp

import flossing as fl


class Own(fl.cells.VanillaRNN):
    pass


class Again(fl.tasks.TemporalXOR):
    pass
"""


@pytest.mark.usefixtures("optax_promotion")
def test_a_task_and_a_cell_of_a_file(protocol, in_this_process, capsys):
    """They give the numbers of the library's classes that they derive from; another content is another protocol."""
    (protocol.parent / "mine.py").write_text(OWN)
    main(["compare", str(protocol), "--workers", "1", "--out", str(protocol.parent / "library")])
    text = FIXED.replace('{ cell = "tanh" }', '{ cell = "mine.py:Own" }').replace('"TemporalXOR"', '"mine.py:Again"')
    protocol.write_text(text)
    main(["compare", str(protocol), "--workers", "1"])
    ours, theirs = (trial_runs.read_results(protocol.parent / name) for name in ("fixed", "library"))
    assert [run["loss"] for run in ours] == [run["loss"] for run in theirs]
    (protocol.parent / "mine.py").write_text(OWN + "# changed\n")
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(protocol)])
    assert "must hold no runs of another protocol" in capsys.readouterr().err
    protocol.write_text(text.replace("mine.py:Own", "mine.py:None"))
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(protocol), "--out", str(protocol.parent / "new")])
    assert "cell must be a class of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("again = 2", "again = 0", "again must be at least 1 for fixed networks"),
        ("gain = 2.0", "gian = 2.0", r"options of tanh, gain 2 must name arguments of VanillaRNN (recurrent, gain"),
        ('loss = "memory"', 'loss = "all"', "arms.memory.loss"),
    ],
)
def test_bad_protocols_of_fixed_networks(protocol, capsys, old, new, message):
    protocol.write_text(FIXED.replace(old, new))
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(protocol)])
    assert message in capsys.readouterr().err


def test_costs_are_of_drawn_networks(protocol, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(protocol), "--seconds"])
    assert "seconds must be measured for networks with draws" in capsys.readouterr().err
    one_drawn = FIXED.replace('"tanh" }', '"tanh", draws = 1 }')
    for text, message in (
        (one_drawn, "epochs of an arm must be left out where networks are drawn"),
        (one_drawn.replace("{ epochs = 6 }", "{}"), "draws of tanh, gain 2 must be at least 1 where other networks"),
    ):
        protocol.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_trial(protocol)


def test_what_decides_a_run_is_recorded(protocol):
    """Another loss, network or threshold makes another record; settings of adaptive flossing count only with one."""
    trial = read_trial(protocol)
    assert len({str(trial.recorded(run)) for run in trial.runs()}) == 2 * 2 * 2
    plain, adaptive = TrialArm(before=3), TrialArm(before=3, threshold=0.1)
    assert plain.recorded() == TrialArm(before=3, block=7, every=9).recorded() == {
        "before": 3, "loss": "default", "rate": 3e-3, "clip": 0.1,
    }  # fmt: skip
    assert adaptive.recorded().items() >= {"threshold": 0.1, "block": 50, "every": 100}.items()


@pytest.mark.usefixtures("optax_promotion")
def test_an_adaptive_arm_flosses_again_where_the_gradient_does_not_reach(monkeypatch):
    epochs = []
    for threshold in (1e-9, 1e9):
        arm, counts = TrialArm(before=3, threshold=threshold, block=2, every=2), []
        train_network(
            TASK, fl.cells.VanillaRNN, 3, arm, Settings(units=6, batch=2, epochs=6, test=4), 1,
            lambda state, counts=counts: counts.append(state.flossing_epoch),
        )  # fmt: skip
        epochs.append(counts[-1])
    assert epochs == [3, 3 + 2 * 2]


@pytest.mark.usefixtures("optax_promotion")
def test_an_arm_may_floss_by_a_term_of_the_loss():
    """Its exponents end nearer to 0 than those of the same network without the term; no block of flossing is made."""
    settings, flossed = Settings(units=6, batch=2, epochs=40, test=4, learning_rate=1e-2), []
    ends = {}
    for name, arm in {"none": TrialArm(), "term": TrialArm(term=30.0, term_every=2)}.items():
        found = train_network(
            TASK, fl.cells.VanillaRNN, 3, arm, settings, 1, lambda state: flossed.append(state.flossing_epoch)
        )
        ends[name] = found["exponents"]
    assert ends["none"]["start"] == ends["term"]["start"]
    assert abs(ends["term"]["end"][-1]) < 0.5 * abs(ends["none"]["end"][-1])
    assert not any(flossed)


@pytest.mark.usefixtures("optax_promotion")
def test_an_adaptive_arm_ends_when_it_has_cost_as_much_as_the_others():
    """Three flossing epochs at 2 s, then pairs of them before every second training epoch, at 1 s, until 20 s."""
    arm, ended = TrialArm(before=3, threshold=1e9, block=2, every=2), []
    for budget in (None, (1.0, 2.0, 20.0)):
        train_network(
            TASK, fl.cells.VanillaRNN, 3, arm, Settings(units=6, batch=2, epochs=14, test=4, budget=budget), 1,
            lambda state: ended.append((state.epoch, state.flossing_epoch)),
        )  # fmt: skip
    last = ended[-1]
    assert 20 <= last[0] + 2 * last[1] < 20 + 2 * 2
    assert (14, 3 + 2 * 6) in ended  # without a budget


def test_the_loss_is_the_mean_over_sequences():
    task = fl.tasks.CopyMemory(delay=3)
    network = fl.cells.Network(fl.cells.GRU(5, 10, key=jax.random.key(0)), 9, key=jax.random.key(1))
    batch = Batch(task, 3)(jax.random.key(2))
    loss, others = eqx.filter_jit(Loss(task))(network, batch)
    each = [fl.tasks.Trial(*(array[i] for array in batch)) for i in range(3)]
    score = eqx.filter_jit(lambda network, sequence: task.score(network.outputs(sequence.inputs), sequence))
    np.testing.assert_allclose(
        (loss, others["accuracy"]), np.mean([score(network, s) for s in each], axis=0), rtol=1e-12
    )


@pytest.mark.parametrize("file", sorted(COMMITTED.glob("*.toml")), ids=lambda file: file.stem)
def test_every_network_of_a_committed_protocol_fits_every_task(file):
    trial: Trial = read_trial(file)
    making.check(trial)
    assert len(trial.runs()) >= 40
    for each in trial.tasks.values():
        task = TASKS[each.task](**each.options)
        data = jax.eval_shape(lambda task=task: data_of(task, Settings(test=4)))
        for name, kind in trial.networks.items():
            drawn = trial.drawn_by(TrialRun("", name, min(1, kind.draws), ""))
            options = kind.options | {key: value for key, value in drawn.items() if key not in making.OF_TRAINING}
            make = partial(making.ALL_CELLS[kind.cell], **options)

            def outcome(key, data, make=make, task=task):
                network = fl.cells.Network(make(5, task.channels, key=key), task.outputs, key=key)
                return Loss(task)(network, data)

            loss, others = eqx.filter_eval_shape(outcome, jax.random.key(0), data)
            assert loss.shape == others["accuracy"].shape == ()
