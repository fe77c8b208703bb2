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
    """Blocks of `interval` steps; one ends at `transient` and the last at `length`. All three may be traced."""

    interval: Int[Array, ""]
    length: Index
    transient: Index

    @property
    def count(self) -> Int[Array, ""]:
        """The number of blocks."""
        return 1 + jnp.maximum(0, -((self._first - self.length) // self.interval))

    def bounds(self, b: Index) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The first step of block `b`, and the step after its last."""
        stop = self._first + b * self.interval
        return jnp.maximum(0, stop - self.interval), jnp.minimum(stop, self.length)

    def num_ended(self, t: Index) -> Index:
        """The number of blocks that have ended after `t` steps, before the end."""
        return jnp.maximum(0, (t - self._first) // self.interval + 1)

    def segments(self, size: int, steps: int) -> tuple[Callable[[Index], "Segment"], "Segment"]:
        """`steps` steps in segments of `size`: a function from first step to segment, and the last segment."""
        start = (steps - 1) // size * size
        return functools.partial(Segment, self, size, True), Segment(self, steps - start, False, start)

    @property
    def _first(self) -> Int[Array, ""]:
        return (self.transient - 1) % self.interval + 1


class Segment(eqx.Module):
    """Steps `start` to `stop` of a window. If it is open, it may end within a block; else it holds the window's end."""

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
        return 0 if isinstance(self.start, int) and self.start == 0 else self.blocks.num_ended(self.start)

    @property
    def end(self) -> Index:
        """The first block that ends after it."""
        return self.blocks.num_ended(self.stop) if self.is_open else self.blocks.count

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
