"""`Flosser` in a training loop of one's own: when it flosses, what it leaves alone, bad input."""

import copy
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest
from torch.nn.utils.rnn import pack_padded_sequence

import flossing as fl
from tests.flosser_models import QUICK, Loop, Model, OwnCell, assert_equal, flt, nn, train, weights
from tests.helpers import OwnSchedule
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch


def test_flosses_while_gradients_do_not_reach_back():
    """A network whose recurrent weights are near zero is flossed at each query; an orthogonal one never."""
    for scale, expected in ((1e-3, [2, 0, 1, 0, 1]), (1.0, [2, 0, 0, 0, 0])):
        model = Model(nn.RNN)
        with torch.no_grad():
            for parameter in (model.rnn.weight_ih_l0, model.rnn.bias_ih_l0, model.rnn.bias_hh_l0):
                parameter.mul_(1e-3)
            nn.init.orthogonal_(model.rnn.weight_hh_l0).mul_(scale)
        slow = torch.optim.SGD(model.parameters(), 0.0)
        options = QUICK | {"loss": flt.losses.exponents, "optimiser": lambda p: torch.optim.SGD(p, 1e-9)}
        assert train(model, flt.Flosser(model, **options), slow, 5) == expected


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_flosses_on_what_the_layer_was_given(kind):
    """One block equals `floss` of the layer on a sequence of the batch, as embedded."""
    model = Model(kind)
    model.drop.p = 0.0
    flosser = flt.Flosser(model, **QUICK | {"preflossing": 1})
    tokens = torch.randint(0, 5, (1, 10))
    model(tokens).square().mean().backward()
    other = copy.deepcopy(model.rnn)
    flosser.step()
    flt.floss(
        other,
        model.embed(tokens)[0].detach(),
        k=3,
        window=8,
        epochs=1,
        generator=torch.Generator().manual_seed(0),
        report=False,
    )
    assert_equal(weights(model.rnn), weights(other))


def test_constraints_and_a_schedule_of_ones_own():
    model = Model()
    still = torch.optim.SGD(model.parameters(), 0.0)

    def project(layer):
        layer.weight_hh_l0[0].zero_()

    before = model.rnn.weight_hh_l0.detach().clone()
    assert train(model, flt.Flosser(model, **QUICK, schedule=OwnSchedule(3), project=project), still, 4) == [0, 0, 2, 0]
    assert not model.rnn.weight_hh_l0[0].any() and (model.rnn.weight_hh_l0[1:] != before[1:]).any()


def test_leaves_everything_else_alone():
    model = Model()
    optimiser = torch.optim.Adam(model.parameters())
    flosser = flt.Flosser(model, **QUICK)
    model(torch.randint(0, 5, (4, 10))).square().mean().backward()
    optimiser.step()
    gradients, moments = [p.grad.clone() for p in model.parameters()], copy.deepcopy(optimiser.state_dict())
    other, recurrent, seed = weights(model.embed) + weights(model.out), weights(model.rnn), torch.get_rng_state()
    assert flosser.step() == 2
    assert_equal([p.grad for p in model.parameters()], gradients)
    assert_equal(weights(model.embed) + weights(model.out), other)
    assert not any(torch.equal(a, b) for a, b in zip(weights(model.rnn), recurrent, strict=True))
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), seed)
    now = optimiser.state_dict()["state"]
    assert all(torch.equal(now[i]["exp_avg"], moments["state"][i]["exp_avg"]) for i in now)


def test_stop_and_go_on_is_no_stop():
    """Weights, scalars and what follows are the same to the bit after saving and loading in the middle."""

    def start():
        torch.manual_seed(3)
        model = Model()
        model.drop.p = 0.0
        return model, flt.Flosser(model, **QUICK | {"threshold": 1e9}), torch.optim.Adam(model.parameters())

    model, flosser, optimiser = start()
    done = train(model, flosser, optimiser, 4) + train(model, flosser, optimiser, 3, first=4)
    other, resumed, adam = start()
    train(other, resumed, adam, 4)
    file = io.BytesIO()
    torch.save({"model": other.state_dict(), "flossing": resumed.state_dict(), "adam": adam.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, resumed, adam = start()
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["flossing"])
    adam.load_state_dict(saved["adam"])
    assert done == [2, 0, 1, 0, 1, 0, 1]
    assert train(other, resumed, adam, 3, first=4) == done[4:]
    assert_equal(weights(model), weights(other))
    same = {name: value for name, value in flosser.scalars().items() if name != "flossing/seconds"}
    assert same.items() <= resumed.scalars().items()


def test_copies_of_the_model_are_apart():
    """A copied model records nothing; model and flosser copied together go on as the originals do."""
    model = Model()
    model.drop.p = 0.0
    flosser, optimiser = flt.Flosser(model, **QUICK), torch.optim.Adam(model.parameters())
    train(model, flosser, optimiser, 1)
    average = copy.deepcopy(model)
    average(torch.randint(0, 5, (4, 10))).sum().backward()
    model2, flosser2, optimiser2 = copy.deepcopy((model, flosser, optimiser))
    assert flosser2.module is model2.rnn
    train(model, flosser, optimiser, 4, first=1)
    assert train(model2, flosser2, optimiser2, 4, first=1) == [0, 0, 0, 0]
    assert_equal(weights(model), weights(model2))
    file = io.BytesIO()
    torch.save(model, file)  # whole modules, hooks included


def test_validation_and_accumulation_do_not_count():
    """Passes without gradients are not recorded; of several backward passes the last counts."""
    model = Model()
    flosser = flt.Flosser(model, **QUICK)
    model(torch.randint(0, 5, (4, 12))).sum().backward()
    model(torch.randint(0, 5, (2, 10))).sum().backward()
    with torch.no_grad():
        model(torch.randint(0, 5, (3, 9)))
    assert flosser._recorded().inputs.shape == (2, 10, 4)
    assert flosser.step() == 2


@pytest.mark.parametrize("make", [lambda: nn.GRUCell(3, 6, **DOUBLE), OwnCell])
@pytest.mark.parametrize("sequences", [1, 2])
def test_cells_in_a_loop(make, sequences):
    model = Loop(make())
    options = QUICK | {"sequences": sequences, "recurrent": "cell"}
    flosser, adam = flt.Flosser(model, **options), torch.optim.Adam(model.parameters())
    assert train(model, flosser, adam, 3, batch=lambda g: torch.randn(4, 10, 3, generator=g, **DOUBLE))[0] == 2
    assert flosser.scalars()["flossing/exponent_1"] < 0 < flosser.scalars()["flossing/reach"]
    assert flosser._recorder.take() is None  # nothing is recorded where no step is due
    flosser.step()
    model(torch.randn(4, 10, 3, **DOUBLE)).sum().backward()
    assert flosser._recorder.take().inputs.shape == (4, 10, 3)


def test_records_one_forward_pass_of_a_cell():
    model = Loop(OwnCell())
    flosser, x = flt.Flosser(model, **QUICK | {"recurrent": model.cell}), torch.randn(4, 10, 3, **DOUBLE)
    for _ in range(2):
        model(x).sum().backward()
    assert torch.equal(flosser._recorded().inputs, x)


def test_packed_sequences_and_several_sequences():
    model = Model(nn.LSTM, num_layers=2)
    flosser = flt.Flosser(model, **QUICK | {"sequences": 3})
    model(torch.randint(0, 5, (4, 10)), torch.tensor([10, 8, 9, 10])).sum().backward()
    assert flosser.step() == 2


def test_sequences_shorter_than_the_window_are_left_out():
    """The step is that of a batch without them."""
    torch.manual_seed(1)
    layer, inputs, lengths = nn.GRU(3, 5, batch_first=True, **DOUBLE), torch.randn(4, 10, 3, **DOUBLE), [10, 7, 9, 3]
    found = []
    for rows in ([0, 1, 2, 3], [0, 2]):
        one = copy.deepcopy(layer)
        flosser = flt.Flosser(one, **QUICK)
        some = torch.tensor([lengths[row] for row in rows])
        packed = pack_padded_sequence(inputs[rows], some, batch_first=True, enforce_sorted=False)
        one(packed)[1].square().sum().backward()
        assert flosser.step() == 2
        found.append([flosser.scalars()["flossing/reach"], *weights(one)])
    (reach, *one), (expected, *other) = found
    assert reach == pytest.approx(expected, rel=1e-12)
    assert_equal(one, other)


def test_compiled_and_wrapped_models():
    model = Model()
    compiled = torch.compile(model, backend="eager")
    flosser, adam = flt.Flosser(compiled, **QUICK), torch.optim.Adam(model.parameters())
    assert train(compiled, flosser, adam, 3)[0] == 2
    assert flt.Flosser(nn.DataParallel(model), **QUICK).module is model.rnn


def in_process(rank, file, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Model())
    flosser = flt.Flosser(model, **QUICK | {"threshold": 1e9, "engine": "torch"})
    adam = torch.optim.Adam(model.parameters())
    done = train(model, flosser, adam, 3, first=rank)  # other batches in each process
    torch.save((done, weights(model)), f"{results}-{rank}")
    os._exit(0)  # without the exit handlers of torch, which may wait for one another


@pytest.mark.slow
def test_distributed_training(tmp_path):
    """All processes keep the same parameters."""
    call = "import sys; from tests.test_pytorch_flosser import in_process; in_process(int(sys.argv[1]), *sys.argv[2:])"
    files, root = [str(tmp_path / "store"), str(tmp_path / "results")], Path(__file__).parent.parent
    commands = [[sys.executable, "-c", call, str(rank), *files] for rank in range(2)]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, shown = process.communicate(timeout=300)
        assert process.returncode == 0, shown
    (done, first), (also, second) = (torch.load(tmp_path / f"results-{rank}") for rank in range(2))
    assert done == also == [2, 0, 1]
    assert_equal(first, second)


def test_your_own_rule():
    model = Model()
    flosser = flt.Flosser(model, schedule=lambda step, measures: 3 if measures["reach"] > 0 else 0, **QUICK)
    assert train(model, flosser, torch.optim.Adam(model.parameters()), 5) == [0, 0, 3, 0, 3]
    model = Model()
    flosser = flt.Flosser(model, schedule=fl.schedules.preflossing(1), **QUICK)
    assert train(model, flosser, torch.optim.Adam(model.parameters()), 3) == [1, 0, 0]
    flosser.close()
    assert not model.rnn._forward_hooks


def two_recurrent():
    model = Model()
    model.second = nn.LSTM(4, 6)
    return model


def frozen():
    model = Model()
    model.rnn.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(3, 3), {}, "recurrent must be given .* got none in Linear"),
        (two_recurrent(), {}, "got several: rnn, second"),
        (Model(), {"recurrent": "lstm"}, "recurrent must name a module of the model .*rnn.*, got 'lstm'"),
        (Model(), {"recurrent": nn.GRU(2, 3)}, "recurrent must be a module of the model"),
        (frozen(), {}, "parameters must include one that requires a gradient"),
        (Model(bidirectional=True), {}, "bidirectional=True"),
        (Model(), {"window": 1}, "window must be an integer of at least 2"),
        (Model(), {"threshold": 0.0}, "threshold must be a positive number"),
        (Model(), {"every": 0}, "every must be an integer"),
        (Model(), {"optimiser": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)}, "that the optimiser holds"),
        (Model(), {"optimiser": list}, r"optimiser must be an optimiser of torch.optim, or a class .*got \[Parameter"),
        (Model(), {"k": 0}, "k must be an integer of at least 1"),
        (Model(), {"target": [0.0], "k": 3}, r"target must be a number, or one for each of k exponents"),
        (Model(), {"target": torch.tensor(torch.nan)}, "target must be finite"),
        (Model(), {"loss": fl.losses.exponents}, "loss must be .*got one of flossing.losses"),
    ],
)
def test_bad_input(model, options, message):
    with pytest.raises(ValueError, match=message):
        flt.Flosser(model, **QUICK | options)
    assert not any(module._forward_hooks for module in model.modules())


def test_torch_given_to_jax():
    with pytest.raises(ValueError, match="model must be one of JAX, got RNN of torch: use flossing.pytorch"):
        fl.lyapunov_spectrum(nn.RNN(3, 4), torch.zeros(9, 3))
    with pytest.raises(ValueError, match=r"inputs must be an array or a number, got a torch Tensor: use"):
        fl.lyapunov_spectrum(fl.cells.VanillaRNN(4, 3, key=jax.random.key(0)), torch.zeros(9, 3))


def test_bad_steps_change_nothing():
    model = Model()
    flosser = flt.Flosser(model, **QUICK)
    before = weights(model)
    with pytest.raises(ValueError, match="step must follow a backward pass"):
        flosser.step()
    with torch.no_grad():
        model(torch.randint(0, 5, (4, 10)))
    with pytest.raises(ValueError, match="step must follow a backward pass"):
        flosser.step()
    assert flosser.steps == 0
    state = flt.Flosser(Model(nn.RNN), **QUICK).state_dict()
    with pytest.raises(ValueError, match="state must be that of the same module"):
        flosser.load_state_dict(state)
    with pytest.raises(ValueError, match="state must be a state_dict\\(\\) of a Flosser"):
        flosser.load_state_dict(model.state_dict())
    assert_equal(before, weights(model))


def test_a_batch_without_long_sequences_is_waited_out():
    """The query that was due, with its preflossing, is made with the next batch that has them, also after a restart."""

    def train(model, *lengths):
        model(torch.randint(0, 5, (len(lengths), max(lengths))), torch.tensor(lengths)).sum().backward()

    torch.manual_seed(0)
    model = Model()
    flosser, before = flt.Flosser(model, **QUICK), weights(model)
    train(model, 7, 6, 7, 5)
    with pytest.warns(UserWarning, match="no sequence of this batch has the 8 steps of the window, the longest has 7"):
        assert flosser.step() == 0
    train(model, 7, 7)
    assert flosser.step() == 0  # warns once
    assert_equal(before, weights(model))
    again = flt.Flosser(model, **QUICK)
    again.load_state_dict(flosser.state_dict())
    train(model, 9, 8, 5)
    assert again.step() == 2 and again.steps == 3  # the preflossing

    flosser = flt.Flosser(model, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(20):
            train(model, 7, 7)
            flosser.step()
    train(model, 7, 7)
    with pytest.raises(ValueError, match="got window=8, and 20 batches before had none"):
        flosser.step()


def test_an_exhausted_loader():
    loader = iter([torch.randn(12, 4, **DOUBLE)] * 2)
    with pytest.raises(ValueError, match="inputs must return a sequence in every epoch, got none from an exhausted"):
        flt.floss(Model().rnn, lambda: next(loader), k=2, epochs=5, report=False)
