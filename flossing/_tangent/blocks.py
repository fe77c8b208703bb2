"""Boundaries of the blocks between reorthonormalisations, and of the window's segments, which may cut a block."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

Index = Int[Array, ""] | int


class Blocks(eqx.Module):
    """Blocks of `interval` steps; one ends at `transient` and the last at `length`."""

    interval: Int[Array, ""]
    length: int = eqx.field(static=True)
    transient: int = eqx.field(static=True)

    @property
    def count(self) -> Int[Array, ""]:
        """The number of blocks."""
        return 1 + jnp.maximum(0, -((self._first - self.length) // self.interval))

    def bounds(self, b: Index) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The first step of block `b`, and the step after its last."""
        stop = self._first + b * self.interval
        return jnp.maximum(0, stop - self.interval), jnp.minimum(stop, self.length)

    def num_ended(self, t: Index) -> Index:
        """The number of blocks that have ended after `t` steps."""
        if isinstance(t, int) and t in (0, self.length):
            return self.count if t else 0  # the last may be shorter than the interval
        return jnp.maximum(0, (t - self._first) // self.interval + 1)

    def segments(self, size: int) -> tuple[Callable[[Index], "Segment"], "Segment"]:
        """The window in segments of `size` steps: a function from first step to segment, and the last segment."""
        start = (self.length - 1) // size * size
        return functools.partial(Segment, self, size, True), Segment(self, self.length - start, False, start)

    @property
    def _first(self) -> Int[Array, ""]:
        return (self.transient - 1) % self.interval + 1


class Segment(eqx.Module):
    """Steps `start` to `stop` of a window. If it is open, it may end within a block."""

    blocks: Blocks
    size: int = eqx.field(static=True)
    is_open: bool = eqx.field(static=True)
    start: Index

    @property
    def stop(self) -> Index:
        """The step after its last."""
        return self.start + self.size

    @property
    def first(self) -> Index:
        """The first block that ends in it."""
        return self.blocks.num_ended(self.start)

    @property
    def end(self) -> Index:
        """The first block that ends after it."""
        return self.blocks.num_ended(self.stop)

    def bounds(self, b: Index) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The first step of block `b` within the segment, and the step after its last."""
        start, stop = self.blocks.bounds(b)
        return jnp.maximum(start, self.start), stop

    @property
    def open_start(self) -> Int[Array, ""]:
        """The first step, within the segment, of the block cut by the end of the segment."""
        return self.bounds(self.end)[0]

    def slice(self, inputs: PyTree[Array]) -> Any:
        """The segment's part of a tree with a leading time axis."""
        return jax.tree_util.tree_map(lambda s: lax.dynamic_slice_in_dim(s, self.start, self.size), inputs)
