"""The checked arguments of a measurement in torch: the state as a point of R^N, the sequence, the initial basis."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from flossing._arguments import check_integer, default_transient
from flossing.pytorch._qr import orthonormalise


class Coordinates:
    """The map between a state (a tensor or a pytree of tensors) and its real coordinates, a vector of R^N.

    Floating leaves are raveled in the tree's own order; a complex leaf gives its real parts, then its imaginary
    parts. Other leaves (counters) have no tangent: `split` returns them separately.
    """

    def __init__(self, state: Any):
        self._leaves, self._spec = pytree.tree_flatten(state)
        dtypes = {leaf.dtype.to_real() for leaf in self._leaves if is_floating(leaf)}
        if dtypes not in ({torch.float32}, {torch.float64}):
            raise ValueError(f"state must have floating leaves of float32, or of float64, got {describe(state)}")
        (self.dtype,) = dtypes
        self._sizes = [part.numel() for leaf in self._leaves if is_floating(leaf) for part in _real_parts(leaf)]
        self.size = sum(self._sizes)

    def split(self, state: Any) -> tuple[Float[Tensor, " N"], list[Tensor]]:
        """`state` -> its coordinates (N,), and the leaves that have none."""
        leaves = pytree.tree_leaves(state)
        parts = [part.reshape(-1) for leaf in leaves if is_floating(leaf) for part in _real_parts(leaf)]
        return torch.cat(parts) if len(parts) > 1 else parts[0], [x for x in leaves if not is_floating(x)]

    def join(self, x: Float[Tensor, " N"], nondiff: list[Tensor]) -> Any:
        """The inverse of `split`."""
        parts, others = iter(x.split(self._sizes)), iter(nondiff)
        leaves = []
        for leaf in self._leaves:
            if leaf.is_complex():
                leaves.append(torch.complex(next(parts), next(parts)).reshape(leaf.shape))
            else:
                leaves.append(next(parts).reshape(leaf.shape) if leaf.is_floating_point() else next(others))
        return pytree.tree_unflatten(leaves, self._spec)

    def check_step(self, step: Any, state: Any, input: Any):
        """Raise ValueError unless `step` maps a state to a state of the same structure, shapes and dtypes."""
        try:
            with torch.no_grad():
                returned = step(*_copies(state, input))
        except (TypeError, RuntimeError, ValueError, IndexError, AttributeError) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise ValueError(
                f"step must accept a state like {describe(state)} and an input like {describe(input)}, got {reason}"
            ) from error
        if describe(returned) != describe(state):
            raise ValueError(
                f"step must return a state like the one it was given, {describe(state)}, got {describe(returned)}"
            )

    def check_pure(self, step: Any, state: Any, input: Any):
        """Raise ValueError unless `step` leaves its arguments as they are, and returns the same when called again."""
        given = _copies(state, input)
        with torch.no_grad():
            (first,) = _copies(step(*given))
            again = step(*_copies(state, input))
        if not _are_equal(given, (state, input)):
            raise ValueError(
                "step must not change its arguments in place, got one that does: write h = h * 0.5, not h.mul_(0.5)"
            )
        if not _are_close(first, again):
            raise ValueError(
                "step must be a pure function of its arguments, got another result when it is called again: call "
                "eval() to switch off dropout, pass counters in the state, and noise with the inputs"
            )


def _copies(*trees: Any) -> Any:
    return pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, trees)


def _are_equal(one: Any, other: Any) -> bool:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def _are_close(one: Any, other: Any) -> bool:
    """Equal up to rounding: on some devices, sums are not repeated to the bit."""

    def is_close(a: Tensor, b: Tensor) -> bool:
        if not is_floating(a):
            return torch.equal(a, b)
        tolerance, sizes = 100 * torch.finfo(a.dtype).eps, a[a.isfinite()].abs()
        scale = float(sizes.max()) if sizes.numel() else 0.0
        return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)

    return all(map(is_close, pytree.tree_leaves(one), pytree.tree_leaves(other)))


def describe(tree: Any) -> str:
    """A pytree with each tensor written as `dtype[shape]` and its device, if that is not the CPU."""
    return str(pytree.tree_map(_ShapeRepr, tree))


class _ShapeRepr:
    def __init__(self, leaf: Any):
        if not isinstance(leaf, Tensor):
            # An array of another library would be printed in full.
            array = f"{type(leaf).__name__} of shape {getattr(leaf, 'shape', None)}"
            self._text = array if hasattr(leaf, "shape") else repr(leaf)
            return
        device = "" if leaf.device.type == "cpu" else f" on {leaf.device}"
        self._text = f"{str(leaf.dtype).removeprefix('torch.')}[{','.join(map(str, leaf.shape))}]{device}"

    def __repr__(self):
        return self._text


def is_floating(leaf: Tensor) -> bool:
    """Whether it holds real or complex numbers."""
    return leaf.is_floating_point() or leaf.is_complex()


def _real_parts(leaf: Tensor) -> tuple[Tensor, ...]:
    return (leaf.real, leaf.imag) if leaf.is_complex() else (leaf,)


def check_tensors(name: str, tree: Any):
    """Raise ValueError if a leaf is not a tensor or is not finite."""
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        label = name + pytree.keystr(path)
        if not isinstance(leaf, Tensor):
            raise ValueError(f"{label} must be a tensor, got {leaf!r} of type {type(leaf).__name__}")
        if is_floating(leaf) and not (finite := torch.isfinite(leaf.detach())).all():
            index = tuple((~finite).nonzero()[0].tolist())
            raise ValueError(f"{label} must be finite, got {leaf.detach()[index].item()} at index {index}")


def sequence_length(inputs: Any, steps: int | None, name: str = "steps") -> int:
    """The number of steps to run: `steps`, or the length of the leading time axis of `inputs`."""
    if inputs is None:
        if steps is None:
            raise ValueError(f"{name} must be given for an autonomous system (inputs=None), got {name}=None")
        check_integer(name, steps, least=1)
        return int(steps)
    lengths = [leaf.shape[0] if leaf.ndim else None for leaf in pytree.tree_leaves(inputs)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"inputs must share one leading time axis of at least one step, got {describe(inputs)}")
    if steps is None:
        return lengths[0]
    check_integer(name, steps, least=1, most=lengths[0], note=f" (inputs have {lengths[0]} steps)")
    return int(steps)


def read_target(target: Any, exponents: Tensor) -> Tensor:
    """The target exponents as a tensor, checked."""
    target = torch.as_tensor(target, dtype=exponents.dtype, device=exponents.device)
    if target.shape not in ((), exponents.shape[-1:]):
        legal = tuple(exponents.shape[-1:])
        raise ValueError(
            f"target must be a scalar or have shape {legal} like exponents, got shape {tuple(target.shape)}"
        )
    if not target.isfinite().all():
        raise ValueError(f"target must be finite, got {target.tolist()}")
    return target


def real_numbers(tree: Any, axes: int) -> Float[Tensor, "... n"]:
    """The real coordinates of all floating leaves, which share their first `axes` axes, on a last axis."""
    leaves = [leaf for leaf in pytree.tree_leaves(tree) if is_floating(leaf)]
    parts = [part.reshape(*leaf.shape[:axes], -1) for leaf in leaves for part in _real_parts(leaf)]
    return torch.cat(parts, dim=-1) if parts else torch.zeros(0)


def each_input(change: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """`change` of every leaf of inputs; None for an autonomous system, which torch's pytrees take for a leaf."""
    return None if inputs is None else pytree.tree_map(change, inputs)


def own_transient(transient: int | None, length: int) -> int:
    """The transient of a sequence of this length."""
    return default_transient(length) if transient is None else transient


def check_transient(
    common: int, transient: int | None, length: int, lengths: tuple[int, ...] | None, name: str = "run"
):
    """Raise ValueError unless every sequence is longer than its transient."""
    check_integer("transient", common, least=0, most=length - 1, note=f" (the {name} has {length} steps)")
    if lengths is not None and transient is not None and transient >= min(lengths):
        raise ValueError(f"transient must be below the smallest of lengths, {min(lengths)}, got transient={transient}")


def initial_bases(
    size: int,
    like: Tensor,
    *,
    batch: int | None,
    k: int | None,
    generator: torch.Generator | None,
    basis: Any,
) -> Float[Tensor, "... N k"]:
    """The initial basis for all sequences, or one per sequence if there is a batch and `basis` has three axes."""
    if batch is None or basis is None or torch.as_tensor(basis).ndim != 3:
        return initial_basis(size, like, k=k, generator=generator, basis=basis)
    if len(basis) != batch:
        raise ValueError(f"basis must hold one basis for each of {batch} sequences, got {len(basis)}")
    return torch.stack([initial_basis(size, like, k=k, generator=generator, basis=each) for each in basis])


def initial_basis(
    size: int,
    like: Tensor,
    *,
    k: int | None,
    generator: torch.Generator | None,
    basis: Any,
) -> Float[Tensor, "N k"]:
    """An orthonormal basis (N, k) of the dtype and on the device of `like`: random, or from the given one."""
    if k is not None:
        check_integer("k", k, least=1, most=size, note=f" (the state has {size} real coordinates)")
    if generator is not None and not isinstance(generator, torch.Generator):
        legal = "a torch.Generator such as torch.Generator().manual_seed(0)"
        raise ValueError(f"generator must be {legal}, got generator={generator!r}")
    if basis is None:
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        drawn = torch.randn(size, k or size, generator=generator, dtype=like.dtype, device=generator.device)
        return orthonormalise(drawn.to(like.device))[0]
    basis = torch.as_tensor(basis, dtype=like.dtype, device=like.device)
    check_tensors("basis", basis)
    if basis.ndim != 2 or len(basis) != size or not 1 <= basis.shape[1] <= size or k not in (None, basis.shape[1]):
        legal = f"({size}, k) with k = {k or f'1 to {size}'}"
        raise ValueError(f"basis must have shape {legal} for this state, got shape {tuple(basis.shape)}")
    q, log_r = orthonormalise(basis)
    if not (independent := torch.isfinite(log_r)).all():
        column = int(independent.int().argmin())
        raise ValueError(f"basis must have linearly independent columns, got column {column} dependent on earlier ones")
    return q
