"""Candidates for an invariant subspace that holds a basis, and where to check them; see `subspace.py`. Needs no JAX."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

LEAK = 100
"""V counts as invariant if the part of D V outside V is at most this many units of rounding of D V."""

SAMPLES = 64
"""The number of points of the orbit at which invariance is checked, evenly spaced."""


def candidates(basis: Float[np.ndarray, "*B N k"], eps: float) -> Iterator[Float[np.ndarray, "N m"]]:
    """Orthonormal bases of the span of `basis`, and of the vectors with the same zero and equal entries."""
    basis = np.concatenate(list(basis), axis=1) if basis.ndim == 3 else basis
    size = len(basis)
    q, singular, _ = np.linalg.svd(basis, full_matrices=False)
    span = q[:, singular > 16 * eps * singular[0]]
    if span.shape[1] < size:
        yield span
    # Entries within a few units of rounding count as equal: a basis of an earlier result is rounded.
    rows = np.round(basis / (16 * eps * np.abs(basis).max())).astype(np.int64)
    first = np.argmax(rows != 0, axis=1)[:, None]
    signs = np.sign(np.take_along_axis(rows, first, axis=1)[:, 0])
    groups: dict[bytes, list[int]] = {}
    for index, (row, sign) in enumerate(zip(rows, signs, strict=True)):
        if sign:
            groups.setdefault((row * sign).tobytes(), []).append(index)
    if span.shape[1] < len(groups) < size:
        structured = np.zeros((size, len(groups)))
        for column, members in enumerate(groups.values()):
            structured[members, column] = signs[members] / np.sqrt(len(members))
        yield structured


def sampled_steps(length: int) -> Int[np.ndarray, " steps"]:
    """The steps of a run of `length` at which invariance is checked."""
    return np.unique(np.linspace(0, length - 1, SAMPLES).astype(int))
