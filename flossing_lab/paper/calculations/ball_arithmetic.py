"""Singular values of a long matrix product in extended precision, with a proven error bound.

The product is computed in ball arithmetic (Arb, through python-flint) with enough bits. Its rows are then rotated until
they are nearly orthogonal. Their norms are the singular values to within a bound set by the remaining angles
(Ostrowski: the eigenvalues of D^1/2 (1 + E) D^1/2 are those of D times factors between 1 - |E| and 1 + |E|). The proof
does not depend on how the rotations were chosen. This shares no code with `long_term_jacobian` and is far slower.
"""

import importlib.util
import itertools
import math
from typing import Any

import numpy as np

PROVEN = 1e-9
"""Largest allowed error of the logarithms."""

MOST_BITS = 2**18


def is_available() -> bool:
    """Whether python-flint is installed."""
    return importlib.util.find_spec("flint") is not None


def exact_log_singular_values(jacobians: np.ndarray, log_condition: float) -> np.ndarray:
    """Natural logarithms of the singular values of D_T ... D_1, descending (N,), each proven to 1e-9.

    `jacobians` (T, N, N) are taken as exact. `log_condition`, an estimate of the logarithm of the product's condition
    number, sets the initial number of bits; too low an estimate only costs time. Raises ImportError without
    python-flint, and ValueError for a product that 2^18 bits do not resolve, such as a singular one.
    """
    import flint

    bits = int(2 * log_condition / math.log(2)) + 4 * len(jacobians) + 256
    while bits < MOST_BITS:
        with flint.ctx.workprec(bits):
            rows = [[*row] for row in _triangularised(flint, jacobians)]
        with flint.ctx.workprec(256 + 4 * len(rows)):
            logs, error = _rotated(flint, rows)
        if error < PROVEN:
            return np.sort([float(x.mid()) for x in logs])[::-1]
        bits *= 2
    raise ValueError(f"jacobians must have a product that {MOST_BITS} bits resolve, got one that needs more")


def _triangularised(flint: Any, jacobians: np.ndarray) -> list:
    product = flint.arb_mat(np.eye(jacobians.shape[1]).tolist())
    for jacobian in jacobians:
        product = flint.arb_mat(jacobian.tolist()) * product
    # Four steps of the LR algorithm, G = L L^T -> L^T L, sort a graded matrix, so that few rotations remain.
    for _ in range(4):
        product = _cholesky(flint, product.transpose() * product)
    return product.transpose().tolist()


def _cholesky(flint: Any, gram: Any) -> Any:
    n, a = gram.nrows(), gram.tolist()
    for j in range(n):
        root = a[j][j].sqrt()
        for i in range(j, n):
            a[i][j] /= root
        for k in range(j + 1, n):
            for i in range(k, n):
                a[i][k] -= a[i][j] * a[k][j]
    return flint.arb_mat([[a[i][j] if j <= i else 0 for j in range(n)] for i in range(n)])


def _rotated(flint: Any, rows: list) -> tuple[list, float]:
    def dot(x: list, y: list) -> Any:
        return sum((a * b for a, b in zip(x, y, strict=True)), flint.arb(0))

    for _ in range(30):
        worst = 0.0
        for i, j in itertools.combinations(range(len(rows)), 2):
            x, y = rows[i], rows[j]
            xx, yy, xy = dot(x, x), dot(y, y), dot(x, y)
            cosine = abs(float((xy / (xx * yy).sqrt()).mid()))
            worst = max(worst, cosine)
            if cosine > 1e-12:
                zeta = ((xx - yy) / (2 * xy)).mid()
                tan = ((1 if zeta >= 0 else -1) / (abs(zeta) + (1 + zeta * zeta).sqrt())).mid()
                cos = 1 / (1 + tan * tan).sqrt()
                rows[i] = [cos * (a + tan * b) for a, b in zip(x, y, strict=True)]
                rows[j] = [cos * (b - tan * a) for a, b in zip(x, y, strict=True)]
        if worst < 1e-11:
            break
    norms = [dot(x, x).sqrt() for x in rows]
    angles: list[Any] = [
        sum((abs(dot(x, y)) / (a * b) for y, b in zip(rows, norms, strict=True) if y is not x), flint.arb(0))
        for x, a in zip(rows, norms, strict=True)
    ]
    logs = [norm.log() for norm in norms]
    bound = [float(angle.abs_upper()) for angle in angles] + [float(x.rad()) for x in logs]
    # np.max propagates NaN, which marks a ball that is too wide.
    return logs, float(np.max(bound))
