"""What surrounds a call must not change its numbers: autocast, lower precision of products, fused attention."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_own_surroundings(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function` in the precision of its dtypes, also inside `torch.autocast`, and without warnings of `torch.func`.

    Attention uses its plain formula: the fused kernels have no second derivative.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        with _own_surroundings():
            return function(*args, **options)

    return call


@contextmanager
def _own_surroundings() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        for device in _autocast_devices():
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="There is a performance drop")
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, precision)
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode: no dropout, and running statistics that stay as they are."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


def check_backward(cotangent: Tensor):
    """Raise ValueError if a backward pass runs inside autocast, which would round its products."""
    if torch.is_autocast_enabled(cotangent.device.type):
        raise ValueError(
            "backward must be called outside of torch.autocast for the gradient of exponents, as PyTorch advises for "
            "any gradient"
        )


def _autocast_devices() -> list[str]:
    return [device for device in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(device)]
