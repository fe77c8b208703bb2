"""What the processes of `torch.distributed` agree on; with a single process, these functions do nothing."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed


def _is_parallel() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return not _is_parallel() or distributed.get_rank() == 0


def from_first(value: Callable[[], int]) -> int:
    """`value()` of the first process, in all processes."""
    if not _is_parallel():
        return value()
    box = [value() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(box)
    assert box[0] is not None
    return box[0]


def send(parameters: list[Tensor]):
    """Give all processes the parameters of the first."""
    if _is_parallel():
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)


def averaged(gradients: list[Tensor | None], parameters: list[Tensor]) -> list[Tensor | None]:
    """The mean of these gradients over all processes."""
    if not _is_parallel():
        return gradients
    means = [(torch.zeros_like(p) if g is None else g).contiguous() for g, p in zip(gradients, parameters, strict=True)]
    for mean in means:
        distributed.all_reduce(mean)
    return [mean / distributed.get_world_size() for mean in means]
