"""The spread of blocks between reorthonormalisations, in torch: `flossing._tangent.spread` without JAX."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing._tangent.interval import MULTIPLES, limits


def spread_ratio(growth: Float[Tensor, "... blocks k"], tolerance: float | None) -> Float[np.ndarray, " factors"]:
    """The ratio of the spread of 1, 2, 4, ... joined blocks to the limit, from log R_ii; the worst over sequences."""
    limit, reach = limits(str(growth.dtype).removeprefix("torch."), tolerance)
    blocks = growth.shape[-2]

    def ratio(factor: int) -> Tensor:
        count = -(-blocks // factor)
        filled = torch.nn.functional.pad(growth, (0, 0, 0, count * factor - blocks))
        joined = filled.unflatten(-2, (count, factor)).sum(-2)
        most, least = joined.amax(-1), joined.amin(-1)
        spread = (most - least).logsumexp(-1) - math.log(count)
        return torch.maximum(spread / limit, torch.maximum(most, -least).amax(-1) / reach).max()

    ratios = torch.stack([ratio(factor) for factor in MULTIPLES])
    return torch.where(ratios.isfinite(), ratios, torch.inf).cpu().numpy()
