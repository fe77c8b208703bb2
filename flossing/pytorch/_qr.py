"""QR with a positive diagonal for the tangent flow, and its reverse-mode rule; see `flossing._linalg.qr`.

The pullback is the transpose of the rule there: with M = Q^T Q_bar, from the cotangents of Q and of l = log diag R,

    C_bar = tril(M - M^T, -1) - M + diag(l_bar),        A_bar = (Q_bar + Q C_bar) R^-T .
"""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.pytorch._surroundings import check_backward

ROUNDING, NULL = 10, 3
"""|R_ii| up to these many units of rounding of its own column, and of the largest, counts as zero; see
`flossing._linalg.qr`."""


def orthonormalise(a: Float[Tensor, "N k"]) -> tuple[Float[Tensor, "N k"], Float[Tensor, " k"]]:
    """`A = Q R` with `R_ii > 0` -> `Q` (N, k), `log diag R` (k,); needs `k <= N`.

    From the first linearly dependent column on, `log R_ii` is -inf with zero gradient; `Q` stays orthonormal.
    """
    return _Orthonormalise.apply(a)  # pyright: ignore[reportReturnType]


class _Orthonormalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor):
        q, r, independent = _positive_qr(a)
        ctx.save_for_backward(q, r, independent)
        return q, torch.where(independent, r.diagonal().log(), -torch.inf)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q_bar, log_bar = cotangents
        check_backward(q_bar)
        q, r, independent = ctx.saved_tensors
        m = q.mT @ q_bar
        c_bar = torch.tril(m - m.mT, -1) - m
        c_bar.diagonal().add_(torch.where(independent, log_bar, 0))
        # Dependent columns are taken out of the solve: no derivative enters or leaves by them.
        r = torch.where(independent, r, torch.eye(len(r), dtype=r.dtype, device=r.device))
        a_bar = torch.linalg.solve_triangular(r.mT, q_bar + q @ c_bar, upper=False, left=False)
        return torch.where(independent, a_bar, 0)


def _positive_qr(a: Tensor) -> tuple[Float[Tensor, "N k"], Float[Tensor, "k k"], Bool[Tensor, " k"]]:
    q, r = torch.linalg.qr(a)
    sign = torch.copysign(r.new_ones(()), r.diagonal())
    r = r * sign[:, None]
    return q * sign, r, independent_columns(r)


def independent_columns(r: Float[Tensor, "*blocks k k"]) -> Bool[Tensor, "*blocks k"]:
    """Which columns come before the first that depends on earlier ones, by R of one or of many decompositions."""
    entry = torch.linalg.vector_norm(r, torch.inf, dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(r.dtype).tiny)
    norms = entry[..., 0] * torch.linalg.vector_norm(r / entry, dim=-2)  # scaled: squares might overflow
    rounding = torch.finfo(r.dtype).eps * torch.maximum(ROUNDING * norms, NULL * norms.amax(-1, keepdim=True))
    # Written so that NaN is not "dependent": it must stay visible.
    dependent = r.diagonal(dim1=-2, dim2=-1).abs() <= rounding
    return dependent.cumsum(-1) == 0


def push(
    jacobians: Float[Tensor, "T N N"], q: Float[Tensor, "N k"], ends: Collection[int]
) -> tuple[Float[Tensor, "N k"], Float[Tensor, "blocks k"]]:
    """D_T ... D_1 Q, orthonormalised after each of the steps `ends` -> the last Q, and log R_ii of each block.

    As [`orthonormalise`][flossing.pytorch._qr.orthonormalise] after each block. The last Q is orthonormal if
    the last step is one of `ends`.
    """
    return _Push.apply(jacobians, q, ends)  # pyright: ignore[reportReturnType]


class _Push(torch.autograd.Function):
    # The pullback is the same for any signs of the columns of Q, so the signs are corrected only at the end.
    @staticmethod
    def forward(ctx: Any, jacobians: Tensor, q: Tensor, ends: Collection[int]):
        before, after, rs = [], [], []
        for t, jacobian in enumerate(jacobians.unbind()):
            before.append(q)
            q = jacobian @ q
            if t in ends:
                q, r = torch.linalg.qr(q)
                after.append(q)
                rs.append(r)
        k = q.shape[1]
        r = torch.stack(rs) if rs else q.new_empty(0, k, k)
        diagonal, independent = r.diagonal(dim1=1, dim2=2), independent_columns(r)
        sign = torch.copysign(torch.ones_like(diagonal), diagonal).prod(0)
        ctx.ends = ends
        ctx.save_for_backward(jacobians, torch.stack(before), r, independent, sign, *after)
        return q * sign, torch.where(independent, diagonal.abs().log(), -torch.inf)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q_bar, log_bar = cotangents
        check_backward(q_bar)
        jacobians, before, r, independent, sign, *after = ctx.saved_tensors
        log_bar = torch.where(independent, log_bar, 0).diag_embed()
        # Dependent columns are taken out of the solve: no derivative enters or leaves by them.
        transposed = torch.where(independent[:, None], r, torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)).mT
        blocks = list(zip(after, transposed, log_bar, independent, strict=True))
        q_bar, pulled = q_bar * sign, []
        for t, jacobian in reversed(list(enumerate(jacobians.mT.unbind()))):
            if t in ctx.ends:
                q, lower, log, kept = blocks.pop()
                m = q.mT @ q_bar
                c_bar = torch.tril(m - m.mT, -1) - m + log
                a_bar = torch.linalg.solve_triangular(lower, torch.addmm(q_bar, q, c_bar), upper=False, left=False)
                q_bar = torch.where(kept, a_bar, 0)
            pulled.append(q_bar)
            q_bar = jacobian @ q_bar
        return torch.stack(pulled[::-1]) @ before.mT, q_bar, None
