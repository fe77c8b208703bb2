"""Helpers for tests of the laboratory: the golden cases as our objects, and the command line."""

import contextlib
import functools
import io
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flossing as fl
from flossing_lab.cli import main
from flossing_lab.reference.experiment import ReferenceModel, first_state, flossed_leaves, step
from flossing_lab.reference.network import ReferenceNetwork

DATA = Path(__file__).parent / "data"
TINY = (
    "--units 10 --k 4 --batch 3 --steps 20 --delay 2 --window 12 --flossing-steps 20 --preflossing 5 "
    "--interflossing 4 --every 6 --blocks 1"
).split()
COMMAND = [sys.executable, "-m", "flossing_lab.cli"]
GOLDEN = ("xor_gaussian", "copy_orthogonal", "xor4_chaotic")


def command_line(*arguments, cwd=None) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own; its output and exit code."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd)


def command_here(*arguments: str, cwd) -> subprocess.CompletedProcess:
    """The same in this process, which is faster since much is already compiled; with JAX's default settings."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@functools.cache
def golden(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def golden_model(case) -> ReferenceModel:
    network = ReferenceNetwork(*(jnp.asarray(case[f"param_{name}"]) for name in NAMES))
    return ReferenceModel(network, jnp.asarray(case["param_x0"].T))


NAMES = ("J", "ws", "wr", "b", "offset")


def leaves_of(network):
    return tuple(getattr(network, name) for name in NAMES)


def golden_flossing(case, model) -> fl.Flossing:
    return fl.Flossing(
        model,
        case["inputs"][:, 0],
        state=first_state,
        basis=case["q0"],
        window=int(case["steps"]),
        transient=int(case["discard"]),
        step=step,
        where=flossed_leaves,
        loss=fl.losses.exponents,  # as the reference
        optimiser=optax.adam(1e-3),
        clip=None,
        interval=1,
    )


def named_arrays(model) -> dict:
    """The arrays of a ReferenceModel under the golden files' names and in their orientation."""
    arrays = dict(zip(NAMES, leaves_of(model.network), strict=True))
    return arrays | {"x0": None if model.x0 is None else model.x0.T}
