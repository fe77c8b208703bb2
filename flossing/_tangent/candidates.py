"""Candidates for an invariant subspace that holds a basis, and where to check them; see `subspace.py`. Needs no JAX."""

from collections.abc import Iterator
from typing import Any

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
    signs, groups = _groups(basis, eps)
    if span.shape[1] < len(groups) < size:
        structured = np.zeros((size, len(groups)))
        for column, members in enumerate(groups):
            structured[members, column] = signs[members] / np.sqrt(len(members))
        yield structured


def may_be_transversal(basis: Float[np.ndarray, "*B N k"], eps: float) -> bool:
    """Whether the entries of each column add up to 0, as those of directions that separate identical systems do."""
    return bool(np.abs(basis.sum(-2)).max() <= _sum_tolerance(basis, eps))


def transversal(
    basis: Float[np.ndarray, "N k"], states: Float[np.ndarray, "samples N"], eps: float
) -> Float[np.ndarray, "N m"] | None:
    """An orthonormal basis of the vectors whose entries add up to 0 over coordinates that agree along the orbit.

    `states`: points of the orbit. For identical systems that are synchronised, these vectors separate the systems. None
    if no coordinates agree, or if `basis` is not among these vectors.
    """
    if not np.isfinite(states).all():
        return None
    apart = np.zeros((states.shape[1],) * 2)
    for state in states:
        np.maximum(apart, np.abs(state[:, None] - state[None, :]), out=apart)
    agree = apart <= np.sqrt(eps) * np.abs(states).max()
    group = agree.argmax(axis=1)  # the first coordinate that agrees
    _, group = np.unique(group, return_inverse=True)
    indicators = np.eye(group.max() + 1)[group]
    count = indicators.shape[1]
    if count == len(basis) or np.abs(indicators.T @ basis).max() > _sum_tolerance(basis, eps):
        return None
    q, _ = np.linalg.qr(indicators, mode="complete")
    return q[:, count:]


def is_kept(outside: Any, pushed: Any) -> Any:
    """Whether V is invariant. `pushed` and `outside` (..., steps): the norms of D V and of its part outside V.

    Arrays of JAX or NumPy.

    Up to half the digits: where V shrinks by much, states that agree up to rounding have Jacobians that differ, and
    where weights change, rounding adds up.
    """
    eps = np.finfo(pushed.dtype).eps
    allowed = np.sqrt(eps) * pushed, LEAK * eps * pushed.max(-1, keepdims=True)
    return ((outside <= allowed[0]) | (outside <= allowed[1])).all()


def _sum_tolerance(basis: np.ndarray, eps: float) -> float:
    return 64 * eps * np.sqrt(basis.shape[-2]) * float(np.abs(basis).max())


def is_contrast(basis: Float[np.ndarray, "*B N k"], eps: float) -> bool:
    """Whether `basis` looks like a direction that separates parts of a system: opposite coordinates, many zeros."""
    if not may_be_transversal(basis, eps) or (basis == 0).mean() < 1 / 3:
        return False
    basis = np.concatenate(list(basis), axis=1) if basis.ndim == 3 else basis
    signs, groups = _groups(basis, eps)
    return any(np.ptp(signs[members]) > 0 for members in groups)


CONTRAST_MESSAGE = (
    "basis separates coordinates, but the Jacobians map it out of every subspace that was tried: the exponents become "
    "those of the whole space, not transversal ones; for those, pass all directions that separate the systems, and a "
    "state in which they agree"
)
"""The warning for a basis of transversal directions that span no invariant subspace."""


def _groups(basis: Float[np.ndarray, "N k"], eps: float) -> tuple[Float[np.ndarray, " N"], list[list[int]]]:
    """The sign of each coordinate, and the coordinates that are equal up to it, without those that are zero."""
    # Entries within a few units of rounding count as equal: a basis of an earlier result is rounded.
    rows = np.round(basis / (16 * eps * np.abs(basis).max())).astype(np.int64)
    first = np.argmax(rows != 0, axis=1)[:, None]
    signs = np.sign(np.take_along_axis(rows, first, axis=1)[:, 0])
    groups: dict[bytes, list[int]] = {}
    for index, (row, sign) in enumerate(zip(rows, signs, strict=True)):
        if sign:
            groups.setdefault((row * sign).tobytes(), []).append(index)
    return signs.astype(float), list(groups.values())


def sampled_steps(length: int) -> Int[np.ndarray, " steps"]:
    """The steps of a run of `length` at which invariance is checked."""
    return np.unique(np.linspace(0, length - 1, SAMPLES).astype(int))
