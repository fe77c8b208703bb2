"""Jacobians of many steps on a basis, with QR in between: one function of autograd, with its loops written out.

Autograd would record each product and each QR decomposition, and add up a gradient of N x N for each; here the loops
run on plain tensors, in both directions, and what steps do not need one after the other is done for all at once.
"""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.pytorch._orthonormal import independent_columns


def push(
    jacobians: Float[Tensor, "T N N"], q: Float[Tensor, "N k"], ends: Collection[int]
) -> tuple[Float[Tensor, "N k"], Float[Tensor, "blocks k"]]:
    """D_T ... D_1 Q, made orthonormal after each of the steps `ends` -> the last Q, and log R_ii of each block.

    As [`orthonormalise`][flossing.pytorch._orthonormal.orthonormalise] after each block. The last Q is orthonormal if
    the last step is one of `ends`.
    """
    return _Push.apply(jacobians, q, ends)  # pyright: ignore[reportReturnType]


class _Push(torch.autograd.Function):
    # Q with columns of either sign does as well as the one of a positive diagonal, and has the same pullback; the
    # signs are put right at the end.
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
