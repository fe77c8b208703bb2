"""Flossing as a term of a torch loss: its value, its gradient, when it is due, what it leaves alone, bad input."""

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import flossing as fl
from tests.flosser_models import QUICK, Loop, Model, OwnCell, assert_equal, flt, nn, weights
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

NEVER = QUICK | {"preflossing": 0, "every": 10**6}


def model_of(kind=nn.GRU):
    model = Model(kind)
    model.drop.p = 0.0
    return model


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_value_and_gradient(kind, engine):
    """The weighted mean squared exponent along the embedded sequence, and its gradient beside that of the loss."""
    model, tokens = model_of(kind), torch.randint(0, 5, (1, 10))
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(2.5, every=1), target=-0.1, engine=engine)
    (model(tokens).square().mean() + flosser.term()).backward()
    ours = [p.grad.clone() for p in model.parameters()]

    model.zero_grad()
    start = torch.Generator().manual_seed(0)
    given = model.embed(tokens)[0].detach()[:8]
    exponents = flt.lyapunov_spectrum(model.rnn, given, k=3, interval=1, generator=start).exponents
    term = 2.5 * (exponents + 0.1).square().mean()
    (model(tokens).square().mean() + term).backward()
    assert flosser.scalars()["flossing/term"] == pytest.approx(term.item(), rel=1e-10)
    measured = [flosser.scalars()[f"flossing/exponent_{i}"] for i in ("1", "k")]
    assert measured == pytest.approx([exponents[0].item(), exponents[-1].item()], rel=1e-8)
    for one, p in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: nn.GRUCell(3, 6, **DOUBLE), OwnCell])
@pytest.mark.parametrize("sequences", [1, 2])
def test_cells_in_a_loop(make, sequences):
    """Only the cell's parameters have a gradient, and descent along it lowers the term."""
    model, x = Loop(make()), torch.randn(2, 10, 3, **DOUBLE)
    options = NEVER | {"recurrent": "cell", "sequences": sequences, "term": flt.FlossingTerm(every=1)}
    flosser, found = flt.Flosser(model, **options), []
    descent = torch.optim.SGD(model.parameters(), 3e-3)
    for _ in range(30):
        descent.zero_grad()
        outputs = model(x)
        term = flosser.term()
        (0 * outputs.sum() + term).backward()
        found.append(term.item())
        assert not model.out.weight.grad.any()
        descent.step()
        flosser.step()
    assert min(found[-2:]) < 0.9 * min(found[:2])


def test_due_in_every_third_step():
    """In other steps it is zero, records nothing, and may be left out; a missing term is noticed."""
    model = model_of()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=3))
    for step in range(1, 7):
        model(torch.randint(0, 5, (4, 10))).sum().backward()
        assert flosser._recorder.armed == (step % 3 == 0)
        term = flosser.term()
        assert (term > 0) == (step % 3 == 0) and (flosser.term() == term)
        flosser.step()
    for _ in range(2):
        flosser.step()
    with pytest.raises(ValueError, match=r"step must follow the backward pass of loss \+ flosser.term.* step 9"):
        flosser.step()
    with pytest.raises(ValueError, match="term must follow a forward pass .* none since step 8"):
        flosser.term()
    with torch.no_grad():
        model(torch.randint(0, 5, (4, 10)))
    with pytest.raises(ValueError, match="term must follow a forward pass"):
        flosser.term()
    model(torch.randint(0, 5, (4, 10)))
    assert flosser.term() > 0 and flosser.step() == 0


def test_scales_like_a_loss_and_leaves_everything_else_alone():
    """A factor of the loss is one of the gradient, also that of a scaler; autocast does not change the term."""
    model, tokens = model_of(), torch.randint(0, 5, (4, 10))
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1))
    model.drop.p, seed = 0.2, torch.get_rng_state()
    model(tokens)
    after = torch.get_rng_state()
    flosser.term().backward()
    assert torch.equal(torch.get_rng_state(), after) and not torch.equal(after, seed)
    once = [p.grad.clone() for p in model.rnn.parameters()]
    assert all(p.grad is None for p in [*model.embed.parameters(), *model.out.parameters()])
    assert all(module.training for module in model.modules())
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        term = flosser.term()
    (1024 * term).backward()
    assert_equal([1024 * g for g in once], [p.grad for p in model.rnn.parameters()])


def test_only_chosen_parameters():
    model = model_of()
    chosen = [model.rnn.weight_hh_l0]
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1), parameters=chosen)
    model(torch.randint(0, 5, (4, 10)))
    flosser.term().backward()
    assert chosen[0].grad.any() and model.rnn.weight_ih_l0.grad is None


def test_added_after_the_backward_pass():
    """`add_term`, for trainers, gives the gradients that the term in the loss gives."""
    model = model_of()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1))
    model(torch.randint(0, 5, (4, 10))).square().mean().backward()
    before = [p.grad.clone() for p in model.parameters()]
    flosser.add_term()
    both = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    flosser.term().backward()
    term = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    assert_equal(both, [a + b for a, b in zip(before, term, strict=True)])
    assert flosser.step() == 0


def test_stop_and_go_on_is_no_stop():
    def start():
        torch.manual_seed(3)
        model = model_of()
        flosser = flt.Flosser(model, **QUICK | {"preflossing": 1}, term=flt.FlossingTerm(every=2), sequences=2)
        return model, flosser, torch.optim.SGD(model.parameters(), 0.01)

    def go(model, flosser, descent, steps):
        for step in steps:
            tokens = torch.randint(0, 5, (4, 10), generator=torch.Generator().manual_seed(step))
            descent.zero_grad()
            (model(tokens).square().mean() + flosser.term()).backward()
            descent.step()
            flosser.step()

    model, flosser, descent = start()
    go(model, flosser, descent, range(6))
    other, resumed, again = start()
    go(other, resumed, again, range(3))
    state, weights_of = copy.deepcopy(resumed.state_dict()), copy.deepcopy(other.state_dict())
    other, resumed, again = start()
    other.load_state_dict(weights_of)
    resumed.load_state_dict(state)
    go(other, resumed, again, range(3, 6))
    assert_equal(weights(model), weights(other))
    assert resumed.scalars()["flossing/term"] == flosser.scalars()["flossing/term"] > 0


def test_short_sequences():
    """Sequences shorter than the window are left out; without any other there is no term, and a warning says so."""
    model = model_of()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1), sequences=4)
    tokens = torch.randint(0, 5, (4, 10))
    model(tokens, torch.tensor([10, 3, 4, 9]))
    mixed = flosser.term()
    model(tokens[[0, 3]], torch.tensor([10, 9]))
    assert mixed.item() == pytest.approx(flosser.term().item(), rel=1e-12)
    model(tokens, torch.tensor([5, 3, 4, 5]))
    with pytest.warns(UserWarning, match="no sequence of this batch has the 8 steps .* no flossing term in this step"):
        term = flosser.term()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        term.backward()
    assert term == 0 and flosser.step() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": flt.FlossingTerm(loss=flt.flossing_loss)}, "term.loss must be a function .* got flossing_loss"),
        ({"term": flt.FlossingTerm(loss=fl.losses.exponents)}, "term.loss must be .* got one of flossing.losses"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        flt.Flosser(model_of(), **NEVER | options)


def test_a_flosser_without_a_term_refuses_term():
    with pytest.raises(ValueError, match="term must be given to the Flosser, as term=FlossingTerm"):
        flt.Flosser(model_of(), **NEVER).term()


def test_the_term_of_a_lost_direction_is_refused():
    """A network that loses a direction has no term, and says so; nothing has a gradient."""
    model = model_of(nn.RNN)
    with torch.no_grad():
        model.rnn.weight_hh_l0.zero_()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1))
    model(torch.randint(0, 5, (4, 10)))
    with pytest.raises(FloatingPointError, match="flossing term: .*exponent"):
        flosser.term()
    assert all(p.grad is None for p in model.parameters())


def in_process(rank, store, results):
    """Train in one of two processes, on batches of its own, with the term in the loss and with `add_term`."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ends = []
    for is_in_loss in (True, False):
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(model_of())
        flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=2), engine="torch")
        descent, draws = torch.optim.SGD(model.parameters(), 0.01), torch.Generator().manual_seed(rank)
        for _ in range(4):
            descent.zero_grad()
            loss = model(torch.randint(0, 5, (4, 10), generator=draws)).square().mean()
            (loss + flosser.term() if is_in_loss else loss).backward()
            if not is_in_loss:
                flosser.add_term()
            descent.step()
            flosser.step()
        ends.append(weights(model))
    torch.save(ends, f"{results}-{rank}")
    os._exit(0)  # without the exit handlers of torch, which may wait for one another


@pytest.mark.slow
def test_distributed_training(tmp_path):
    """Both ways give the mean gradient of all processes, which keep the same parameters."""
    call = "import sys; from tests.test_pytorch_term import in_process; in_process(int(sys.argv[1]), *sys.argv[2:])"
    files, root = [str(tmp_path / "store"), str(tmp_path / "results")], Path(__file__).parent.parent
    commands = [[sys.executable, "-c", call, str(rank), *files] for rank in range(2)]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, shown = process.communicate(timeout=300)
        assert process.returncode == 0, shown
    first, second = (torch.load(tmp_path / f"results-{rank}") for rank in range(2))
    for one, other in zip(first, second, strict=True):
        assert_equal(one, other)
    for one, other in zip(*first, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
