"""The call of the released Julia code: what it means, and what is refused, by its Julia name."""

import jax
import numpy as np
import pytest

from flossing import tasks
from flossing_lab.cli import main
from flossing_lab.reference.call import NAMES, best_accuracy, flags, read_call
from flossing_lab.reference.config import Config
from flossing_lab.reference.experiment import draw_model, make_schedule
from flossing_lab.reference.task import make_task
from flossing_lab.runs.directory import RunDirectory

REFERENCE = (
    "80, 3001, 100, 500, 500, 2, 16, 1, 300, 55, 300, 1,1,1,1, 0.001f0, 0.9, 0.999, 1, 1.0, 0.0, 1.0, 10, "
    "1.0f0, 0.0f0, 1.0f0, 0.0f0, 0.1f0, 0.0f0, 75, -1, 3, 0.0"
)


def call(**changed):
    """The reference call with some arguments changed, as text."""
    words = [word.strip() for word in REFERENCE.split(",")]
    for name, word in changed.items():
        words[NAMES.index(name)] = str(word)
    return ", ".join(words)


def test_the_reference_call_is_our_default():
    config = Config.from_call(REFERENCE)
    assert config.digest == Config().digest and not Config().differences(config)
    assert flags(config) == "flossing train"
    assert Config.from_call(f"trainRNNflossing({REFERENCE})") == config


def test_the_lines_of_a_julia_script():
    text = """include("GradientFlossing_ExampleCode.jl")  # their file
    delay=20; seed = 3
    trainRNNflossing(80, 301, 10, 50, 50, 2, 16, 1, 300, 55, 300, seed, seed, seed, seed, 0.001f0, 0.9, 0.999, 1, 1.0,
    0.0, 1.0,delay, 1.0f0, 0.0f0, 1.0f0, 0.0f0, 0.1f0, 0.0f0,75, -1, 3, 0.0)"""
    assert Config.from_call(f"{text}  # not trainRNNflossing(1, 2)") == Config.from_call(text)
    config = Config.from_call(text)
    expected = {"epochs": 301, "every": 10, "interflossing": 50, "preflossing": 50, "delay": 20, "seed": 3}
    assert config.digest == Config().with_values(**expected).digest


def test_every_argument_has_its_field():
    """Each number changed on its own changes what our table of the arguments says it does."""
    changed = {
        **{"N": ("units", 90), "E": ("epochs", 7), "Ef": ("every", 9), "Ei": ("interflossing", 8)},
        **{"Ep": ("preflossing", 6), "Ni": ("blocks", 5), "B": ("batch", 4), "T": ("steps", 100)},
        **{"Tp": ("window", 60), "Ti": ("flossing_steps", 200), "sIC": ("seed_initial", 2), "sIn": ("seed_input", 3)},
        **{"sNet": ("seed_network", 4), "sONS": ("seed_basis", 5), "lr": ("learning_rate", 0.01)},
        **{"b1": ("beta1", 0.8), "b2": ("beta2", 0.99), "g": ("gain", 1.5), "gbar": ("mean_coupling", -1.0)},
        **{"I1": ("amplitude", 2.0), "delay": ("delay", 20), "wsS": ("input_scale", 0.1), "wsM": ("input_mean", 0.2)},
        **{"wrS": ("readout_scale", 0.3), "wrM": ("readout_mean", 0.4), "bS": ("bias_scale", 0.5)},
        **{"bM": ("bias_mean", 0.6), "nLE": ("k", 10), "Lwnt": ("target", -0.5)},
    }
    assert {*NAMES} - {*changed} == {"S", "IC", "task", "intype"}
    for name, (field, value) in changed.items():
        config = Config.from_call(call(**{name: value}))
        plan = {"first_scored", "threshold", "flossing_rate"}  # follow from delay, batch and learning_rate
        assert {*Config().differences(config)} - plan == {field}, name
        assert config.values()[field] == value
    assert Config.from_call(call(intype=7)).digest == Config().digest


def test_conditions_follow_from_the_numbers_of_epochs():
    conditions = {(500, 2): "before_and_during", (500, 0): "before", (0, 2): "during", (0, 0): "none"}
    for (before, blocks), condition in conditions.items():
        assert Config.from_call(call(Ep=before, Ni=blocks)).condition == condition
    assert Config.from_call(call(nLE=0)).condition == "none"
    assert Config.from_call(call(Ei=0)).condition == "before"


def test_blocks_at_every_epoch_begin_after_the_first():
    # Before epoch 1 there is preflossing alone; it does not count as one of the Ni blocks.
    schedule = make_schedule(Config.from_call(call(Ef=1, Ep=7, Ei=5)))
    assert [schedule(epoch, {}) for epoch in range(1, 6)] == [7, 5, 5, 0, 0]
    schedule = make_schedule(Config.from_call(call(Ef=2, Ep=7, Ei=5)))
    assert [schedule(epoch, {}) for epoch in range(1, 6)] == [7, 5, 0, 5, 0]


def test_the_tasks_of_the_call():
    assert Config.from_call(call(task=0)).task.task == "copy"
    copy = Config.from_call(call(task=0, delay=0))
    trial = make_task(copy)(jax.random.key(0))
    np.testing.assert_array_equal(trial.targets, trial.inputs[:, 0])
    assert trial.mask.all() and best_accuracy(copy) == 1
    assert Config.from_call(call(task=1)).digest == Config().digest
    assert Config.from_call(call(task=-2)).digest == Config().with_values(order=2).digest


def test_targets_of_positive_tasks_are_zero_until_their_bits_are_drawn():
    """Against the rule of the Julia code, written as its loop: one delay of bits precedes the sequence."""
    delay, order, steps = 3, 2, 40
    config = Config.from_call(call(task=order, delay=delay, T=steps))
    task = make_task(config)
    bits = np.asarray(jax.random.bernoulli(jax.random.key(1), shape=(task.longest_lag + steps, 1)), float)
    trial = task.trial(jax.numpy.asarray(bits))
    s = bits[task.longest_lag - delay :, 0]  # what Julia draws: `delay` bits, then those of the sequence
    target = np.zeros(steps + delay)
    for i in range(1, steps + delay + 1):
        if i > delay * 2**order:
            target[i - 1] = sum(s[i - 1 - m * delay] for m in range(1, 2**order + 1)) % 2
    np.testing.assert_array_equal(trial.targets, target[delay:])
    assert int(np.argmax(trial.mask)) + 1 == 2 * delay
    # Steps 10 to 12 depend on bits before the first input, and the steps before are 0.
    assert best_accuracy(config) == pytest.approx(1 - 0.5 * 3 / (steps - 2 * delay + 1))
    drawn = tasks.TemporalXOR(steps=steps, delay=delay, order=order, first_scored=2 * delay)
    np.testing.assert_array_equal(drawn.trial(jax.numpy.asarray(bits)).targets[9:], trial.targets[9:])
    assert np.any(drawn.trial(jax.numpy.asarray(bits)).targets[:9])


def test_orthogonal_weights_with_the_signs_of_lapack():
    """Their mean trace is below zero; that of uniformly distributed ones is 0."""
    traces = {"lapack": [], "orthogonal": []}
    for kind, values in traces.items():
        for seed in range(1, 31):
            config = Config.from_call(call(IC=3, N=20, nLE=10, sNet=seed)).with_values(recurrent=kind)
            J = np.asarray(draw_model(config).network.J, float)
            np.testing.assert_allclose(J @ J.T, np.eye(20), atol=1e-5)
            values.append(np.trace(J))
    mean = {kind: np.mean(values) for kind, values in traces.items()}
    error = np.std(traces["lapack"]) / np.sqrt(30)
    assert mean["lapack"] < -1 and abs(mean["orthogonal"]) < 4 * error
    assert Config.from_call(call(IC=3)).network.recurrent == "lapack"


def test_short_windows_keep_the_transient_of_the_released_code():
    assert Config.from_call(call(Tp=26)).flossing.transient is None
    assert Config.from_call(call(Tp=25)).flossing.transient == 13
    assert Config.from_call(call(Tp=13)).flossing.transient == 12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"N": 0}, "N must be greater than or equal to 1, got N=0"),
        ({"N": "80.0"}, "N must be an integer, got '80.0'"),
        ({"N": 50}, r"nLE must be an integer from 1 to 50 \(the number of units\), got nLE=75"),
        ({"nLE": -1}, "nLE must be an integer of at least 0"),
        ({"E": 0}, "E must be"),
        ({"Ef": 0}, "Ef must be"),
        ({"S": 3}, "S must be 1.*spatial_xor"),
        ({"IC": 2}, "IC must be 1"),
        ({"lr": 0}, "lr must be above 0"),
        ({"lr": "1/1000"}, "lr must be a number as Julia writes it"),
        ({"b1": 1.0}, "b1 must be less than 1"),
        ({"Tp": 12}, "Tp must be at least 13"),
        ({"Tp": 301}, "Tp must be at most Ti=300, got Tp=301"),
        ({"T": 20}, "T must be greater than the longest lag of 20 steps"),
        ({"delay": 0}, "delay must be at least 1 for an XOR"),
        ({"delay": -1, "task": 0}, "delay must be"),
        ({"task": -17}, "task must be"),
        ({"sIC": -1}, "sIC must be"),
        ({"g": "1e999"}, "g must be finite"),
    ],
)
def test_refused_by_their_julia_names(changed, message):
    with pytest.raises(ValueError, match=message) as error:
        read_call(call(**changed))
    assert "\n" not in str(error.value)


def test_other_texts_are_refused():
    with pytest.raises(ValueError, match="call must have the 33 arguments N, E, .* got 2"):
        read_call("1, 2")
    with pytest.raises(ValueError, match="closing parenthesis"):
        read_call("trainRNNflossing(80, 3")


@pytest.mark.usefixtures("optax_promotion")
def test_command_line(tmp_path, capsys):
    text = f"trainRNNflossing({call(N=6, nLE=3, E=2, Ep=2, Ni=0, B=2, T=30, Ti=30, Tp=20, delay=2, task=0)})"
    main(["train", "--call", text, "--out", str(tmp_path / "run"), "--clip", "0.1"])
    out = " ".join(capsys.readouterr().out.split())
    assert "this call is flossing train --units 6" in out and "note the transient is 12 of 20 steps" in out
    config = RunDirectory(tmp_path / "run").config
    assert config.clip == 0.1 and config.with_values(clip=0.03).digest == Config.from_call(text).digest
    for extra, message in (
        (["--epochs", "5"], "epochs must be left out with call"),
        (["--seed", "5"], "seed and resume must be left out with call"),
        (["--condition", "none"], "condition must be left out with call"),
        (["--film", "--snapshots-every", "0"], "film needs snapshots"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["train", "--call", text, *extra])
        assert end.value.code == 2 and message in capsys.readouterr().err
