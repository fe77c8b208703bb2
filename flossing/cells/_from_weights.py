"""Trained recurrent layers from a file or a dictionary of weights, named as PyTorch names them."""

import importlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flossing._equations import Kind, Layer, advance, affine
from flossing._types import State

FUNCTIONS = SimpleNamespace(tanh=jnp.tanh, relu=jax.nn.relu, sigmoid=jax.nn.sigmoid, chunk=jnp.split, stack=jnp.stack)
"""The functions of the equations in JAX."""

KINDS = ("tanh", "relu", "gru", "lstm")
_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_NAME = re.compile(r"(?:(?P<module>.*)\.)?(?P<part>weight_ih|weight_hh|bias_ih|bias_hh)(?:_l(?P<layer>\d+))?")


class TorchRNN(eqx.Module):
    """The layers of an `nn.RNN`, `nn.GRU` or `nn.LSTM`, or a cell of these, in JAX; from [`cells.from_weights`][].

    The state of L layers of H units is h (L, H), for an LSTM (h, c); a cell has no axis of layers. `layers` holds
    weight_ih, weight_hh, bias_ih and bias_hh of each.
    """

    layers: tuple[Layer, ...]
    kind: Kind = eqx.field(static=True)

    def __call__(self, input: Float[Array, " S"], state: State) -> State:
        """One step of all layers."""
        weight, _, bias, _ = self.layers[0]
        return advance(FUNCTIONS, self.kind, self.layers, state, affine(weight, bias, input))

    def zeros(self) -> State:
        """The zero state."""
        weight = self.layers[0][1]
        shape = (len(self.layers),) if self.kind.stacked else ()
        h = jnp.zeros((*shape, weight.shape[1]), weight.dtype)
        return (h, h) if self.kind.name == "lstm" else h

    def output(self, state: Any) -> Float[Array, " H"]:
        """h of the last layer."""
        h = state[0] if self.kind.name == "lstm" else state
        return h[-1] if self.kind.stacked else h


def from_weights(source: Any, *, name: str | None = None, kind: str | None = None) -> TorchRNN:
    """A trained recurrent network, from a file or a dictionary of its weights.

    **Arguments:**

    - `source`: a file of torch (`.pt`, `.pth`, `.ckpt`, `.bin`, read with `weights_only=True`), safetensors or NumPy
      (`.npz`); or a mapping of names to arrays or tensors, such as a state dict. Nothing is unpickled.
    - `name`: the recurrent module in a model that has several, such as "encoder.rnn".
    - `kind`: "tanh", "relu", "gru" or "lstm"; by default what the shapes imply, and tanh for one block of rows.

    **Returns:** a [`cells.TorchRNN`][], an Equinox module like every other cell, in the dtype of the weights; float32
    for half precision, and where JAX runs with x64 off.

    **Raises:** `ValueError` for a file without such weights, with several sets of them and no `name`, for layers that
    run backwards or project, for shapes that do not fit; `OSError` for a file that cannot be read.

        spectrum = fl.lyapunov_spectrum(fl.cells.from_weights("model.safetensors"), inputs)
    """
    weights = _flattened(read_weights(Path(source)) if isinstance(source, (str, Path)) else source)
    module = _module(weights, name)
    found: dict[int | None, dict[str, np.ndarray]] = {}
    for key, value in weights.items():
        match = _NAME.fullmatch(key)
        if match and (match["module"] or "") == module:
            layer = None if match["layer"] is None else int(match["layer"])
            found.setdefault(layer, {})[match["part"]] = value
    for key in weights:
        if key.startswith(f"{module}." if module else "") and re.search(r"(_reverse|weight_hr_l\d+)$", key):
            raise ValueError(f"source must hold layers that run forward and do not project, got {key}")
    layers = tuple(_layer(found[i], i) for i in sorted(found, key=lambda i: -1 if i is None else i))
    _check_layers(layers, [*found])
    blocks = layers[0][1].shape[0] // layers[0][1].shape[1]
    implied = {1: "tanh", 3: "gru", 4: "lstm"}.get(blocks)
    if kind not in (None, *KINDS):
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got kind={kind!r}")
    chosen = Kind(kind or implied or "", None not in found)
    if implied is None or chosen.gates != blocks:
        raise ValueError(
            f"kind must fit weight_hh of {layers[0][1].shape}, {blocks} blocks of rows, got {chosen.name!r}"
        )
    return TorchRNN(layers, chosen)


def _check_layers(layers: tuple[Layer, ...], indices: list[int | None]):
    if None not in indices and sorted(map(str, indices)) != sorted(map(str, range(len(indices)))):
        raise ValueError(f"source must hold all layers from 0 on, got {', '.join(map(str, indices))}")
    rows, units = layers[0][1].shape
    for index, (w_ih, w_hh, *biases) in enumerate(layers):
        fits = w_hh.shape == (rows, units) and (not index or w_ih.shape[1] == units)
        if not fits or any(b is not None and b.shape != (rows,) for b in biases):
            shapes = ", ".join(str(None if a is None else a.shape) for a in (w_ih, w_hh, *biases))
            raise ValueError(f"the weights of layer {index} must fit {units} units and {rows} rows, got {shapes}")


def read_weights(path: Path) -> dict[str, Any]:
    """The arrays of a file by name, nested as in the file."""
    with open(path, "rb"):  # a missing file has the same error whatever its kind
        pass
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} must hold arrays of numbers, got {error}") from error
    if path.suffix == ".safetensors":
        safetensors = _package("safetensors.numpy", "safetensors")
        try:
            return safetensors.load_file(path)
        except Exception as error:  # its own class of errors, and dtypes that NumPy lacks
            raise ValueError(f"{path} must be a file of safetensors, got {error}") from error
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        torch = _package("torch", "torch")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # its own errors advise to unpickle the file
            raise ValueError(f"{path} must be a state dict of plain tensors, as torch.save writes it") from error
    raise ValueError(f"a file of weights must be .pt, .pth, .ckpt, .bin, .safetensors or .npz, got {path}")


def _flattened(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested mappings as one, with dots between names; only what is an array."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"source must be a file or a mapping of names to arrays, got {type(tree).__name__}")
    found = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flattened(value, f"{prefix}{key}.")
        elif hasattr(value, "detach"):
            if _NAME.fullmatch(f"{prefix}{key}") is None:
                found[f"{prefix}{key}"] = np.zeros(0)  # only its name matters; it may be of any kind
                continue
            tensor = value.detach().cpu()
            found[f"{prefix}{key}"] = (tensor.float() if tensor.element_size() == 2 else tensor).numpy()
        elif hasattr(value, "shape"):
            found[f"{prefix}{key}"] = np.asarray(value)
    return found


def _module(weights: dict[str, np.ndarray], name: str | None) -> str:
    matches = (_NAME.fullmatch(key) for key in weights)
    modules = sorted({match["module"] or "" for match in matches if match and match["part"] == "weight_hh"})
    if name is None and len(modules) == 1:
        return modules[0]
    if name in modules:
        return str(name)
    chosen = [module for module in modules if name is not None and (module == name or module.endswith(f".{name}"))]
    if len(chosen) == 1:
        return chosen[0]
    if not modules:
        raise ValueError(
            f"source must hold weights named weight_ih_l0 and weight_hh_l0, got {', '.join(weights) or 'none'}"
        )
    raise ValueError(f"name must be one of the recurrent modules of the file, {', '.join(modules)}, got name={name!r}")


def _layer(parts: dict[str, np.ndarray], index: int | None) -> Layer:
    end = "" if index is None else f"_l{index}"
    if missing := [part for part in _PARTS[:2] if part not in parts]:
        raise ValueError(f"source must hold {missing[0]}{end}, got {', '.join(parts)}")
    w_ih, w_hh, b_ih, b_hh = (parts.get(part) for part in _PARTS)
    assert w_ih is not None and w_hh is not None
    if w_hh.ndim != 2 or w_ih.ndim != 2 or len(w_hh) != len(w_ih) or not w_hh.size or len(w_hh) % w_hh.shape[1]:
        raise ValueError(f"weight_ih{end} and weight_hh{end} must fit each other, got {w_ih.shape} and {w_hh.shape}")
    return _array(w_ih), _array(w_hh), None if b_ih is None else _array(b_ih), None if b_hh is None else _array(b_hh)


def _array(weights: np.ndarray) -> Array:
    is_whole = jnp.issubdtype(weights.dtype, jnp.floating) and weights.dtype.itemsize >= 4
    dtype = weights.dtype if is_whole else np.dtype(np.float32)
    return jnp.asarray(weights, jax.dtypes.canonicalize_dtype(dtype))


def _package(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"this file needs {name}: pip install {name}") from None
