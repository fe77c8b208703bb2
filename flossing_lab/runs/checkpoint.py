"""Checkpoints: everything a run needs to continue as if it had never stopped.

A file holds one line with the digest of the rest, one line of JSON (counts, and the shapes of the measures), and the
arrays of the training state as Equinox writes them: model, both optimisers, measures. The seeds and the number of an
epoch determine its random keys, so the counts suffice to restore them. Counts and measures together are also the
schedule's state.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flossing._training.epoch import FlossingState
from flossing._training.leaves import array_name
from flossing._training.train import TrainingState
from flossing_lab.runs.files import write_atomically

FORMAT = 2
NUM_CHECKPOINTS = 2
"""Number of checkpoints to keep. If the newest is damaged, the one before it remains."""

_log = logging.getLogger("flossing")
_COUNTS = ("epoch", "flossing_epoch", "queried_epoch", "pending")
_FORMAT_1_NAMES = {"queried_epoch": "asked", "pending": "due"}
"""Names of some counts in format 1."""


class Checkpoint(eqx.Module):
    """A training state to continue from, how often the learning rate was halved, and the seconds spent so far."""

    state: TrainingState
    halvings: int = 0
    seconds: float = 0.0


def write_checkpoint(folder: Path, checkpoint: Checkpoint):
    """Write a checkpoint into `folder` and remove all but the newest ones."""
    state = checkpoint.state
    header = {
        "format": FORMAT,
        **{name: int(getattr(state, name)) for name in _COUNTS},
        "interval": None if state.flossing is None else int(state.flossing.interval),
        "halvings": checkpoint.halvings,
        "seconds": checkpoint.seconds,
        "measures": {name: [np.asarray(x).dtype.str, np.shape(x)] for name, x in state.measures.items()},
    }
    arrays = io.BytesIO()
    eqx.tree_serialise_leaves(arrays, (_trees(state), state.measures))
    content = json.dumps(header).encode() + b"\n" + arrays.getvalue()
    name = f"{state.epoch:08d}-{state.flossing_epoch:08d}.eqx"
    write_atomically(folder / name, _digest(content) + b"\n" + content)
    for path in sorted(folder.glob("*.eqx"))[:-NUM_CHECKPOINTS]:
        path.unlink(missing_ok=True)


def newest_checkpoint(folder: Path, like: TrainingState) -> Checkpoint | None:
    """Return the newest readable checkpoint in `folder`, or None. Damaged checkpoints are logged.

    `like` is the state of a new run of the same configuration. Raises ValueError if the newest is not of such a state.
    """
    for path in sorted(folder.glob("*.eqx"), reverse=True):
        try:
            header, arrays = _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("checkpoint %s is damaged and passed over (%s)", path, str(error).splitlines()[0])
            continue
        try:
            return _restored(header, arrays, like)
        except Exception as error:  # Equinox and NumPy raise many kinds
            raise ValueError(
                f"out must hold a run of this model, got {str(folder.parent)!r}, whose arrays are those of another "
                f"({str(error).splitlines()[0]}); overwrite replaces it"
            ) from error
    return None


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the arrays of a checkpoint; an exception if it is damaged."""
    digest, _, content = path.read_bytes().partition(b"\n")
    if digest != _digest(content):
        raise ValueError("its content does not match its digest")
    line, _, arrays = content.partition(b"\n")
    header: dict[str, Any] = json.loads(line)
    if header["format"] not in (1, FORMAT):
        raise ValueError(f"its format is {header['format']}, this version reads {FORMAT}")
    if header["format"] == 1:
        header |= {name: header[first] for name, first in _FORMAT_1_NAMES.items()}
    return header, arrays


def _restored(header: Mapping[str, Any], arrays: bytes, like: TrainingState) -> Checkpoint:
    measures = {name: np.zeros(shape, np.dtype(kind)) for name, (kind, shape) in header["measures"].items()}
    trees, measures = eqx.tree_deserialise_leaves(io.BytesIO(arrays), (_trees(like), measures))
    model, opt_state, flossing = trees
    if flossing is not None:
        flossing = FlossingState(flossing, jnp.asarray(int(header["interval"]), jnp.int32))
    counts = {name: int(header[name]) for name in _COUNTS}
    state = TrainingState(model, opt_state, flossing, measures=measures, **counts)
    return Checkpoint(state, int(header["halvings"]), float(header["seconds"]))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _trees(state: TrainingState) -> tuple:
    return state.model, state.opt_state, None if state.flossing is None else state.flossing.opt_state


Model = TypeVar("Model")


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a model by name."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {array_name(path): np.asarray(leaf) for path, leaf in leaves}


def with_parameters(model: Model, parameters: Mapping[str, np.ndarray]) -> Model:
    """`model` with the arrays of `parameters`; ValueError if one is missing or of another shape."""

    arrays, rest = eqx.partition(model, eqx.is_array)

    def stored(path, leaf):
        array = parameters.get(array_name(path))
        if array is None or array.shape != leaf.shape:
            found = "nothing" if array is None else f"shape {array.shape}"
            raise ValueError(f"parameters.npz must hold {array_name(path)} of shape {leaf.shape}, got {found}")
        return jnp.asarray(array, leaf.dtype)

    return eqx.combine(jax.tree_util.tree_map_with_path(stored, arrays), rest)
