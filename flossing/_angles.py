"""Angles between directions and between subspaces, such as those that covariant Lyapunov vectors span."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flossing._checks import check_integer


def angles_between(vectors: ArrayLike) -> Float[Array, "k k"]:
    """The angles in radians, 0 to pi / 2, between all columns of `vectors` (N, k), nonzero, up to their signs.

    A symmetric matrix with zeros on the diagonal, in the dtype of `vectors`; small angles lose no digits. `jax.vmap`
    takes a time axis. Raises `ValueError` if `vectors` does not have two axes.
    """
    v = _columns(vectors)
    v = v / jnp.linalg.norm(v, axis=0)[None, :]
    u, v = v[:, :, None], v[:, None, :]
    # The arc cosine of u.v would lose half the digits of a small angle.
    apart, together = jnp.linalg.norm(u - v, axis=0), jnp.linalg.norm(u + v, axis=0)
    return 2 * jnp.arctan2(jnp.minimum(apart, together), jnp.maximum(apart, together))


def angle_between_subspaces(vectors: ArrayLike, split: int) -> Float[Array, ""]:
    """The smallest principal angle between the span of the first `split` columns of `vectors` and that of the rest.

    In radians, 0 to pi / 2, in the dtype of `vectors`, (N, k) with independent columns; small angles lose no digits.
    With as many covariant vectors as expand for `split`, it tells how close an orbit comes to a tangency. Raises
    `ValueError` unless `split` is from 1 to k - 1. Source: Björck & Golub, Math. Comp. 27, 579 (1973).
    """
    v = _columns(vectors, least=2)
    check_integer("split", split, least=1, most=v.shape[1] - 1, note=f" (there are {v.shape[1]} vectors)")
    (a, _), (b, _) = jnp.linalg.qr(v[:, :split]), jnp.linalg.qr(v[:, split:])
    overlap = a.T @ b
    cosine, sine = jnp.linalg.svd(overlap, compute_uv=False), jnp.linalg.svd(b - a @ overlap, compute_uv=False)
    return jnp.arctan2(sine[-1], cosine[0])


def _columns(vectors: ArrayLike, least: int = 1) -> Array:
    v = jnp.asarray(vectors)
    if v.ndim != 2 or v.shape[1] < least:
        raise ValueError(f"vectors must have shape (N, k) with k of at least {least}, got shape {v.shape}")
    return v
