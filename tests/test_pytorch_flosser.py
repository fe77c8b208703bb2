"""`Flosser` in a training loop of one's own: what hooks record, when it flosses, what it leaves alone, bad input."""

import copy
import gc
import io
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

import flossing as fl
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

nn = torch.nn
flt = pytest.importorskip("flossing.pytorch")
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

QUICK = {"preflossing": 2, "epochs": 1, "every": 2, "k": 3, "window": 8, "report": False}


class Model(nn.Module):
    """Tokens, an embedding, dropout, a recurrent layer, a readout."""

    def __init__(self, kind=nn.GRU, batch_first=True, **options):
        super().__init__()
        self.embed = nn.Embedding(5, 4, **DOUBLE)
        self.drop = nn.Dropout(0.2)
        self.rnn = kind(4, 6, batch_first=batch_first, **options, **DOUBLE)
        self.out = nn.Linear(6, 2, **DOUBLE)

    def forward(self, tokens, lengths=None):
        x = self.drop(self.embed(tokens))
        x = x if self.rnn.batch_first else x.transpose(0, 1)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=self.rnn.batch_first, enforce_sorted=False)
            end = self.rnn(x)[1]
            return self.out((end[0] if isinstance(end, tuple) else end)[-1])
        out = self.rnn(x)[0]
        return self.out(out if self.rnn.batch_first else out.transpose(0, 1))


class OwnCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(9, 6, **DOUBLE)

    def forward(self, input, state):
        return torch.tanh(self.mix(torch.cat([input, state], dim=1)))


class Loop(nn.Module):
    """A cell, called step by step."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell, nn.Linear(6, 1, **DOUBLE)

    def forward(self, x):
        h, outputs = torch.zeros(len(x), 6, **DOUBLE), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(self.out(h[0] if isinstance(h, tuple) else h))
        return torch.stack(outputs, 1)


def train(model, flosser, optimiser, steps, first=0, batch=None):
    draws = torch.Generator().manual_seed(first)
    done = []
    for _ in range(first, first + steps):
        tokens = torch.randint(0, 5, (4, 10), generator=draws)
        optimiser.zero_grad()
        model(tokens if batch is None else batch(draws)).square().mean().backward()
        optimiser.step()
        done.append(flosser.step())
        draws = torch.Generator().manual_seed(first + len(done))
    return done


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_reach_is_the_gradient_of_the_loss(kind, batch_first):
    """|dL/dh_0| / |dL/dtheta|, by plain autograd through the model, for losses of the second half of the window."""
    module = kind(3, 5, num_layers=2, batch_first=batch_first, **DOUBLE)
    window, batch, steps = 6, 4, 10
    flosser = flt.Flosser(module, **QUICK | {"window": window, "preflossing": 0, "every": 1, "epochs": 0})
    inputs, readout = torch.randn(batch, steps, 3, **DOUBLE), torch.randn(batch, steps, 5, **DOUBLE)

    def run(x, state=None):
        out, end = module(x if batch_first else x.transpose(0, 1), *([] if state is None else [state]))
        return (out if batch_first else out.transpose(0, 1)), end

    for _ in range(2):  # the first query follows step 2
        module.zero_grad()
        (run(inputs)[0] * readout).sum().backward()
        flosser.step()
    with torch.no_grad():
        state = run(inputs[:, : steps - window])[1]
    state = [h.requires_grad_() for h in (state if isinstance(state, tuple) else (state,))]
    out = run(inputs[:, steps - window :], tuple(state) if len(state) > 1 else state[0])[0]
    loss = (out * readout[:, steps - window :])[:, window // 2 :].sum()
    found = torch.autograd.grad(loss, [*state, *module.parameters()])
    squares = [float(g.square().sum()) for g in found]
    expected = math.sqrt(batch * sum(squares[: len(state)]) / sum(squares[len(state) :]))
    assert flosser.scalars()["flossing/reach"] == pytest.approx(expected, rel=1e-12)


def test_reach_of_packed_sequences_counts_from_the_end_of_each():
    """A packed batch has the reach of its sequences, each cut to the window; the gradient arrives at the last state."""
    torch.manual_seed(1)
    layer, lengths, inputs = nn.GRU(3, 5, batch_first=True, **DOUBLE), [9, 6, 9], torch.randn(3, 9, 3, **DOUBLE)
    flosser = flt.Flosser(layer, **QUICK | {"window": 6, "preflossing": 0, "every": 1, "epochs": 0})
    readout = torch.randn(3, 5, **DOUBLE)
    for _ in range(2):
        packed = pack_padded_sequence(inputs, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        (layer(packed)[1][-1] * readout).sum().backward()
        flosser.step()
    distant, local = 0.0, [torch.zeros_like(p) for p in layer.parameters()]
    for length, sequence, read in zip(lengths, inputs, readout, strict=True):
        with torch.no_grad():
            state = layer(sequence[None, : length - 6])[1] if length > 6 else torch.zeros(1, 1, 5, **DOUBLE)
        state.requires_grad_()
        loss = (layer(sequence[None, length - 6 : length], state)[1][-1, 0] * read).sum()
        first, *others = torch.autograd.grad(loss, [state, *layer.parameters()])
        distant += float(first.square().sum())
        local = [a + g for a, g in zip(local, others, strict=True)]
    expected = math.sqrt(3 * distant / sum(float(g.square().sum()) for g in local))
    assert flosser.scalars()["flossing/reach"] == pytest.approx(expected, rel=1e-12)


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


@pytest.mark.parametrize("cell", [nn.GRUCell(3, 6, **DOUBLE), OwnCell()])
@pytest.mark.parametrize("sequences", [1, 2])
def test_cells_in_a_loop(cell, sequences):
    model = Loop(cell)
    options = QUICK | {"sequences": sequences, "recurrent": "cell"}
    flosser, adam = flt.Flosser(model, **options), torch.optim.Adam(model.parameters())
    assert train(model, flosser, adam, 3, batch=lambda g: torch.randn(4, 10, 3, generator=g, **DOUBLE))[0] == 2
    assert flosser.scalars()["flossing/exponent_1"] < 0 < flosser.scalars()["flossing/reach"]
    model(torch.randn(4, 10, 3, **DOUBLE)).sum().backward()
    record = flosser._recorder.take()
    assert record is None or record.inputs.shape == (4, 10, 3)


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
        (frozen(), {}, "parameters must hold one that requires a gradient"),
        (Model(bidirectional=True), {}, "bidirectional=True"),
        (Model(), {"window": 1}, "window must be an integer of at least 2"),
        (Model(), {"threshold": 0.0}, "threshold must be a positive number"),
        (Model(), {"every": 0}, "every must be an integer"),
        (Model(), {"optimiser": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)}, "that the optimiser holds"),
    ],
)
def test_bad_input(model, options, message):
    with pytest.raises(ValueError, match=message):
        flt.Flosser(model, **QUICK | options)
    assert not any(module._forward_hooks for module in model.modules())


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
    model(torch.randint(0, 5, (4, 7)), torch.tensor([7, 6, 7, 5])).sum().backward()
    with pytest.raises(ValueError, match="window must be at most .* longest sequence of the batch, 7, got window=8"):
        flosser.step()
    assert flosser.steps == 0
    state = flt.Flosser(Model(nn.RNN), **QUICK).state_dict()
    with pytest.raises(ValueError, match="state must be that of the same module"):
        flosser.load_state_dict(state)
    with pytest.raises(ValueError, match="state must be a state_dict\\(\\) of a Flosser"):
        flosser.load_state_dict(model.state_dict())
    assert_equal(before, weights(model))


def test_an_exhausted_loader():
    loader = iter([torch.randn(12, 4, **DOUBLE)] * 2)
    with pytest.raises(ValueError, match="inputs must return a sequence in every epoch, got none from an exhausted"):
        flt.floss(Model().rnn, lambda: next(loader), k=2, epochs=5, report=False)


def test_nothing_is_kept_between_steps():
    """Hooks hold no cycle through what the module returned, which Python could not free."""
    for module in (nn.GRU(3, 5, batch_first=True, **DOUBLE), nn.GRUCell(3, 5, **DOUBLE)):
        flosser = flt.Flosser(module, **QUICK | {"preflossing": 0, "every": 1, "epochs": 0})
        x, h = torch.randn(2, 10, 3, **DOUBLE), None
        out = module(x)[0] if isinstance(module, nn.GRU) else None
        for t in range(10 if out is None else 0):
            h = module(x[:, t], h)
        kept = weakref.ref(out if out is not None else h)
        (out if out is not None else h).sum().backward()
        del out, h
        flosser.step()
        gc.collect()
        assert kept() is None


def test_full_backward_hooks_of_others():
    layer = nn.GRU(3, 5, batch_first=True, **DOUBLE)
    layer.register_full_backward_hook(lambda *_: None)
    flosser = flt.Flosser(layer, **QUICK)
    layer(torch.randn(2, 10, 3, **DOUBLE, requires_grad=True))[0].sum().backward()
    assert flosser.step() == 2


def test_a_cell_without_a_model_around_it():
    """A pass for validation, with a gradient but none taken, is not joined to the training pass; also with keywords."""
    cell = OwnCell()
    flosser = flt.Flosser(cell, **QUICK | {"recurrent": cell})
    for size, x in ((4, torch.randn(4, 10, 3, **DOUBLE)), (4, torch.randn(4, 10, 3, **DOUBLE))):
        h = torch.zeros(size, 6, **DOUBLE)
        for t in range(10):
            h = cell(state=h, input=x[:, t])
    h.sum().backward()
    assert torch.equal(flosser._recorded().inputs, x)
    assert flosser.step() == 2


def test_keywords_in_another_order():
    layer, x = nn.GRU(3, 5, batch_first=True, **DOUBLE), torch.randn(2, 10, 3, **DOUBLE)
    flosser = flt.Flosser(layer, **QUICK)
    layer(hx=torch.zeros(1, 2, 5, **DOUBLE), input=x)[0].sum().backward()
    assert torch.equal(flosser._recorded().inputs, x)


@pytest.mark.parametrize("make", [lambda: nn.GRU(3, 6, batch_first=True), lambda: nn.GRUCell(3, 6)])
def test_autocast(make):
    module, before = make(), nn.Linear(3, 3)
    flosser = flt.Flosser(module, **QUICK)
    x = torch.randn(2, 10, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inputs, h = before(x), torch.zeros(2, 6)
        if isinstance(module, nn.GRU):
            h = module(inputs)[0]
        else:
            for t in range(10):
                h = module(inputs[:, t], h)
    h.float().sum().backward()
    assert flosser.step() == 2


def test_the_window_ends_at_the_last_loss():
    """A padded batch whose loss is masked has the reach of the same sequences without padding."""
    torch.manual_seed(1)
    layer, x, read = nn.GRU(3, 5, batch_first=True, **DOUBLE), torch.randn(3, 12, 3, **DOUBLE), torch.randn(3, 12, 5)
    found = []
    for steps in (12, 9):
        flosser = flt.Flosser(copy.deepcopy(layer), **QUICK | {"epochs": 0, "every": 1, "preflossing": 0})
        for _ in range(2):
            out = flosser.module(x[:, :steps])[0]
            (out[:, :9] * read[:, :9].double()).sum().backward()
            flosser.step()
        found.append(flosser.scalars()["flossing/reach"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_no_gradient_at_all_is_no_reach():
    model = nn.RNN(3, 5, batch_first=True, nonlinearity="relu", **DOUBLE)
    with torch.no_grad():
        model.bias_ih_l0.fill_(-1e3)
    flosser = flt.Flosser(model, schedule=lambda step, measures: 0, **QUICK)
    for _ in range(3):
        model(torch.randn(2, 10, 3, **DOUBLE))[0].sum().backward()
        flosser.step()
    assert flosser.scalars()["flossing/reach"] == 0
