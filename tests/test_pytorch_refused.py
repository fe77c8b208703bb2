"""What cannot be measured or flossed in torch is refused in one line, or warned of."""

import warnings

import pytest

import flossing as fl
from tests.flosser_models import QUICK, Model, flt, nn
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

NEVER = QUICK | {"schedule": fl.schedules.never()}


def test_losses_before_the_end_of_the_window_leave_the_reach_unknown():
    model = Model()
    flosser = flt.Flosser(model, **QUICK | {"preflossing": 0, "every": 1})
    for _ in range(2):
        model(torch.randint(0, 5, (4, 10)))[:, :3].square().sum().backward()  # a masked loss: three steps, not eight
        if flosser.steps:
            with pytest.warns(UserWarning, match="the reach is nan, .* or every loss comes before its end"):
                assert flosser.step() == 0
        else:
            flosser.step()


def test_the_reach_is_that_of_all_trained_parameters():
    torch.manual_seed(0)
    model, found = Model(), []
    model.drop.p = 0.0
    tokens = torch.randint(0, 5, (4, 10))
    for parameters in (None, [model.rnn.weight_hh_l0]):
        flosser = flt.Flosser(model, **QUICK | {"preflossing": 0, "every": 1, "parameters": parameters})
        flosser.steps = 1
        flosser._arm()
        model(tokens).square().sum().backward()
        flosser.step()
        found.append(flosser.scalars()["flossing/reach"])
        flosser.close()
    assert found[0] == found[1] > 0


def test_epochs_of_other_batches():
    batches = iter([torch.randn(10, 4, 2), torch.randn(10, 3, 2)])
    with pytest.raises(ValueError, match="inputs must have 4 sequences in every epoch, as in the first, got 3"):
        flt.floss(nn.GRU(2, 6), lambda: next(batches), k=3, epochs=2, report=False)


def test_later_sequences_that_are_shorter_than_the_transient():
    packed = [torch.nn.utils.rnn.pack_sequence([torch.randn(n, 2) for n in lengths]) for lengths in ((10, 9), (10, 3))]
    batches = iter(packed)
    with pytest.raises(ValueError, match="transient must be below the smallest of lengths, 3, got transient=4"):
        flt.floss(nn.GRU(2, 6), lambda: next(batches), k=3, epochs=2, transient=4, report=False)


def test_lengths_are_cut_to_the_steps():
    module, inputs = nn.GRU(2, 6, batch_first=True, **DOUBLE), torch.randn(2, 100, 2, **DOUBLE)
    found = flt.lyapunov_spectrum(module, inputs, lengths=[100, 30], steps=50, k=2)
    own = flt.lyapunov_spectrum(module, inputs[:1, :50], k=2)
    assert found.steps_of_each.tolist() == [own.steps, 30 - 13]
    torch.testing.assert_close(found.running_mean()[0, -1], found.exponents[0])


def test_a_batch_of_autonomous_systems():
    W = torch.eye(3, **DOUBLE) / 2
    starts = torch.ones(2, 3, **DOUBLE)
    found = flt.lyapunov_spectrum(lambda h, _: W @ h, None, state=starts, batched=True, steps=20, k=2)
    torch.testing.assert_close(found.exponents, torch.full((2, 2), 0.5, **DOUBLE).log())


def test_a_step_that_gives_nan_is_not_called_impure():
    with pytest.raises(ValueError, match="step must keep the state and its tangents finite"):
        flt.lyapunov_spectrum(lambda h, _: h * float("nan"), None, state=torch.ones(3), steps=5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (lambda module: module.weight_hh_l0, "parameters must be a list of tensors, .* got a single tensor"),
        (lambda module: module.named_parameters(), "parameters must be a list of tensors, .* got one with a tuple"),
    ],
)
def test_parameters_that_floss_cannot_take(parameters, message):
    module = nn.GRU(2, 6)
    with pytest.raises(ValueError, match=message):
        flt.floss(module, torch.randn(20, 2), k=3, epochs=1, parameters=parameters(module), report=False)


def test_a_shared_parameter_counts_once():
    norms = []
    for twice in (1, 2):
        torch.manual_seed(0)
        module = nn.GRU(2, 6)
        options = {"parameters": [module.weight_hh_l0] * twice, "clip": None, "report": False}
        norms.append(flt.floss(module, torch.ones(20, 2), k=3, epochs=1, **options).gradient_norm[0])
    assert norms[0] == norms[1]


def test_a_term_of_parameters_that_do_not_enter():
    model = Model()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1), parameters=model.out.parameters())
    model(torch.randint(0, 5, (4, 10)))
    with pytest.raises(ValueError, match="parameters must enter the step, got none that the exponents depend on"):
        flosser.term()


def test_batches_that_are_always_too_short_for_a_term():
    model = Model()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm(every=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(20):
            model(torch.randint(0, 5, (4, 5)))
            flosser.term()
            flosser.step()
    model(torch.randint(0, 5, (4, 5)))
    with pytest.raises(ValueError, match="window must be at most the length of the longest sequence of a batch, 5"):
        flosser.term()


def test_a_checkpoint_from_before_the_term():
    model = Model()
    state = flt.Flosser(model, **NEVER).state_dict()
    flosser = flt.Flosser(model, **NEVER, term=flt.FlossingTerm())
    flosser.load_state_dict(state)
    assert "flossing/term" in flosser.scalars()


def test_a_frozen_module_can_be_diagnosed():
    module = nn.GRU(1, 6).requires_grad_(False)
    assert flt.diagnose(module, torch.randn(60, 1), horizon=5).seconds is None


def test_gates_inside_autocast():
    module, inputs = nn.GRU(2, 6), torch.randn(10, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = flt.gate_values(module, inputs)["write"]
    assert torch.equal(inside, flt.gate_values(module, inputs)["write"]) and inside.dtype == torch.float32


@pytest.mark.parametrize(
    "make", [lambda: nn.LSTM(2, 4, 2, batch_first=True), lambda: nn.GRU(2, 4), lambda: nn.RNNCell(2, 4)]
)
def test_a_module_that_computes_other_equations(make):
    """Hooks and a forward of the instance may observe, or compute weights; they may not change inputs or outputs."""
    torch.manual_seed(0)
    module = make().double()
    inputs = torch.randn(3, 12, 2, **DOUBLE) if getattr(module, "batch_first", False) else torch.randn(12, 2, **DOUBLE)
    plain, forward = flt.lyapunov_spectrum(module, inputs, k=2).exponents, module.forward

    def is_refused():
        with pytest.raises(
            ValueError, match="module must compute the equations of nn.*, got one whose hooks or forward"
        ):
            flt.lyapunov_spectrum(module, inputs, k=2)

    for hook in (lambda module, args: None, lambda module, args: (2 * args[0], *args[1:])):
        handle = module.register_forward_pre_hook(hook)
        if hook(module, (torch.ones(1),)) is None:
            assert torch.equal(flt.lyapunov_spectrum(module, inputs, k=2).exponents, plain)
        else:
            is_refused()
        handle.remove()
    module.forward = lambda *args: forward(*args)
    assert torch.equal(flt.lyapunov_spectrum(module, inputs, k=2).exponents, plain)
    module.forward = lambda input, *state: forward(-input, *state)
    is_refused()


def test_measuring_takes_no_step_of_a_spectral_norm():
    module = torch.nn.utils.parametrizations.spectral_norm(nn.RNN(2, 4).double(), "weight_hh_l0")
    before, inputs = {name: value.clone() for name, value in module.state_dict().items()}, torch.randn(12, 2, **DOUBLE)
    first, second = (flt.lyapunov_spectrum(module, inputs, k=2).exponents for _ in range(2))
    assert torch.equal(first, second) and module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rnn, inputs: flt.lyapunov_spectrum(rnn, inputs, generator=0), "generator must be a torch.Generator"),
        (
            lambda rnn, inputs: flt.floss(rnn, inputs, flossing_state="history", report=False),
            "flossing_state must be a FlossingState, such as history.state of an earlier call, got a str",
        ),
        (
            lambda rnn, inputs: flt.diagnose(rnn, None, horizon=3),
            r"inputs must be a sequence \(T, S\), got inputs=None",
        ),
        (
            lambda rnn, inputs: flt.Flosser(rnn, k=2, window=5).load_state_dict(None),
            "state must be a state_dict.* got None",
        ),
        (
            lambda rnn, inputs: torch.inference_mode()(flt.floss)(rnn, inputs),
            "floss must be called outside of torch.inference_mode",
        ),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_arguments_of_another_kind(call, message):
    with pytest.raises(ValueError, match=message):
        call(nn.GRU(2, 4), torch.randn(12, 2))


def test_an_optimiser_that_holds_some_parameters_flosses_these_alone():
    torch.manual_seed(0)
    model, sequence = nn.RNN(2, 6), torch.randn(12, 2)
    held = lambda parameters: torch.optim.SGD(parameters[1:2], lr=1e-9)  # noqa: E731
    history = flt.floss(model, sequence, k=3, epochs=4, loss=flt.losses.exponents, optimiser=held, report=False)
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(history.gradient_norm, history.gradient_norm[:1].expand(4), rtol=1e-3, atol=0)


def test_a_complex_cell_is_refused_at_the_start():
    class Rotation(nn.Module):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, input, state):
            return self.phase * state + input

    model = Rotation()
    with pytest.raises(ValueError, match="recurrent must have real parameters, got complex ones: call floss"):
        flt.Flosser(model, recurrent=model, **QUICK)


def test_states_of_a_loss():
    """None for the inputs of an autonomous batch; refused with lengths, whose padding would count."""
    seen = []
    options = {
        "k": 2,
        "epochs": 1,
        "report": False,
        "loss": lambda m: seen.append(m.states().shape) or m.exponents.sum(),
    }
    weights = torch.randn(4, 4, requires_grad=True)
    step = lambda h, _: torch.tanh(h @ weights.T)  # noqa: E731
    flt.floss(step, None, state=torch.randn(3, 4), batched=True, window=5, parameters=[weights], **options)
    assert seen == [(3, 5, 4)]
    with pytest.raises(ValueError, match="states must be of sequences of one length, got a batch with lengths"):
        flt.floss(nn.RNN(2, 4, batch_first=True), torch.randn(2, 20, 2), lengths=[20, 12], **options)
