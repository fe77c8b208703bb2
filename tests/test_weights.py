"""Trained networks from files: the spectra of their torch modules; bad files; nothing is unpickled."""

import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing_lab.cli import main
from tests.pytorch_settings import DOUBLE, one_thread_and_seed as one_thread_and_seed, torch

nn = torch.nn
flt = pytest.importorskip("flossing.pytorch")

MODULES = {
    "tanh": lambda: nn.RNN(3, 5, **DOUBLE),
    "relu": lambda: nn.RNN(3, 5, nonlinearity="relu", **DOUBLE),
    "gru": lambda: nn.GRU(3, 5, num_layers=2, bias=False, **DOUBLE),
    "lstm": lambda: nn.LSTM(3, 5, num_layers=2, **DOUBLE),
    "cell": lambda: nn.GRUCell(3, 5, **DOUBLE),
}


def model_of(module):
    model = nn.Module()
    model.embed, model.rnn, model.out = nn.Linear(4, 3), module, nn.Linear(5, 1)
    return model


@pytest.mark.parametrize("kind", MODULES)
def test_spectra_are_those_of_the_module(kind):
    module = MODULES[kind]()
    inputs = torch.randn(60, 3, **DOUBLE)
    cell = fl.cells.from_weights(model_of(module).state_dict(), kind="relu" if kind == "relu" else None)
    basis = np.random.default_rng(0).normal(size=(flt.lyapunov_spectrum(module, inputs).basis.shape[0], 3))
    expected = flt.lyapunov_spectrum(module, inputs, basis=basis)
    found = fl.lyapunov_spectrum(cell, jnp.asarray(inputs.numpy()), basis=basis)
    np.testing.assert_allclose(found.exponents, expected.exponents.detach(), rtol=0, atol=1e-10)
    end = found.state[0] if kind == "lstm" else found.state
    np.testing.assert_array_equal(cell.output(found.state), end if kind == "cell" else end[-1])
    if cell.kind.name in ("gru", "lstm"):
        gates = fl.gate_values(cell, jnp.asarray(inputs.numpy()))
        for name, value in flt.gate_values(module, inputs).items():
            np.testing.assert_allclose(gates[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors", ".npz"])
def test_files(tmp_path, suffix):
    module, file = nn.GRU(3, 5), tmp_path / f"model{suffix}"
    weights = model_of(module).state_dict()
    if suffix in (".pt", ".ckpt"):
        torch.save({"epoch": 3, "state_dict": weights}, file)
    elif suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in weights.items()})
    else:
        pytest.importorskip("safetensors.torch").save_file(weights, file)
    cell = fl.cells.from_weights(file)
    np.testing.assert_array_equal(cell.layers[0][1], module.weight_hh_l0.detach())
    assert cell.layers[0][1].dtype == jnp.float32 and cell.kind.name == "gru"


def test_a_choice_of_modules_and_half_precision():
    model = model_of(nn.GRU(3, 5).half())
    model.second = nn.LSTM(3, 4)
    cell = fl.cells.from_weights(model.state_dict(), name="rnn")
    assert cell.layers[0][1].dtype == jnp.float32 and cell.zeros().shape == (1, 5)
    with pytest.raises(ValueError, match="name must be one of .* rnn, second, got name=None"):
        fl.cells.from_weights(model.state_dict())


class Evil:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_nothing_is_unpickled(tmp_path):
    evil = Evil(tmp_path / "unpickled")
    for name, write in {
        "evil.pt": lambda file: file.write_bytes(pickle.dumps({"rnn.weight_hh_l0": evil})),
        "evil.npz": lambda file: np.savez(file, a=np.asarray([evil], dtype=object), allow_pickle=True),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ValueError, match="must be a state dict|must hold arrays"):
            fl.cells.from_weights(tmp_path / name)
    assert not evil.trace.exists()


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({}, {}, "source must hold weights named weight_ih_l0 and weight_hh_l0, got none"),
        (nn.Linear(2, 3).state_dict(), {}, "got weight, bias"),
        ([], {}, "source must be a file or a mapping"),
        (nn.GRU(2, 3, bidirectional=True).state_dict(), {}, "layers that run forward .*, got weight_ih_l0_reverse"),
        (nn.LSTM(2, 3, proj_size=2).state_dict(), {}, "layers that run forward and do not project, got weight_hr_l0"),
        (nn.GRU(2, 3).state_dict(), {"kind": "lstm"}, "kind must fit .* 3 blocks of rows.*, got 'lstm'"),
        (nn.GRU(2, 3).state_dict(), {"kind": "mgu"}, "kind must be one of tanh, relu, gru, lstm"),
        ({"weight_hh_l0": np.zeros((6, 3)), "weight_ih_l0": np.zeros((6, 2))}, {}, "2 blocks of rows"),
        ({"weight_hh_l0": np.zeros((3, 3))}, {}, "source must hold weight_ih_l0, got weight_hh"),
        ({"weight_hh_l0": np.zeros((3, 3)), "weight_ih_l0": np.zeros((4, 2))}, {}, "must fit each other"),
    ],
)
def test_bad_weights(weights, options, message):
    with pytest.raises(ValueError, match=message):
        fl.cells.from_weights(weights, **options)


def run(capsys, *arguments):
    try:
        main(["spectrum", *map(str, arguments)])
    except SystemExit as end:
        return end.code, capsys.readouterr()
    return 0, capsys.readouterr()


def test_the_command(tmp_path, capsys):
    files, inputs = [tmp_path / f"epoch-{i}.pt" for i in range(2)], tmp_path / "inputs.npy"
    module = nn.RNN(2, 4, **DOUBLE)
    for file in files:
        torch.save(module.state_dict(), file)
        module.weight_hh_l0.data.mul_(0.5)
    sequence = torch.randn(300, 2, **DOUBLE)
    np.save(inputs, sequence.numpy())
    np.save(tmp_path / "wide.npy", np.zeros((50, 3)))
    plot = tmp_path / "plots" / "a.png"
    code, shown = run(capsys, "--weights", files[0], "--inputs", inputs, "--first", 2, "--plot", plot)
    expected = fl.lyapunov_spectrum(fl.cells.from_weights(files[0]), jnp.asarray(sequence.numpy()), k=2)
    assert code == 0 and expected.table() in shown.out and plot.exists()
    code, shown = run(capsys, "--weights", *files, "--inputs", inputs, "--plot", plot)
    assert shown.out.count("Spectrum(k=4: ") == 2 and "-inf" not in shown.out
    for arguments, message in (
        (["--weights", files[0]], "inputs must be given for weights"),
        (["--inputs", inputs], "inputs must come with --weights"),
        (["--weights", files[0], "--inputs", inputs, "--delay", 3], "weights must come without --run"),
        (["--weights", inputs, "--inputs", inputs], "a file of weights must be .pt"),
        (["--weights", tmp_path / "none.pt", "--inputs", inputs], "No such file"),
        (["--weights", files[0], "--inputs", files[0]], "inputs must be a .npy file"),
        (["--weights", files[0], "--inputs", tmp_path / "wide.npy"], "inputs must have the 2 channels of the network"),
    ):
        code, shown = run(capsys, *arguments)
        assert code == 2 and message in shown.err and len(shown.err.splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lost_directions_are_remarked(dtype, tmp_path, capsys):
    module = nn.RNN(1, 3, dtype=dtype)
    module.weight_hh_l0.data[2] = 0  # the third unit forgets its past
    torch.save(module.state_dict(), tmp_path / "a.pt")
    np.save(tmp_path / "inputs.npy", np.zeros((50, 1)))
    files = "--weights", tmp_path / "a.pt", "--inputs", tmp_path / "inputs.npy"
    code, shown = run(capsys, *files, "--plot", tmp_path / "a.png")
    assert code == 0 and "1 direction is lost, with an exponent of -inf: a Jacobian maps it to 0" in " ".join(
        shown.out.split()
    )
    assert ("save the weights as float64" in shown.out) == (dtype == torch.float32)
