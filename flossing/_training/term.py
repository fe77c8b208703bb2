"""The flossing term of a training loss, as a pure function of the model and the epoch."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from flossing._runtime.interning import interned
from flossing._term import FlossingTerm
from flossing._training.epoch import Flossing
from flossing._types import RandomKey
from flossing.losses import Loss, exponents


class TermLoss(eqx.Module):
    """The flossing term of the loss; in epochs that are no multiple of `every` it is zero and costs nothing.

    Epoch e draws its sequences with `fold_in(key, e)`.
    """

    weight: Float[Array, ""]
    every: int = eqx.field(static=True)
    loss: Loss = eqx.field(static=True)
    flossing: Flossing
    key: RandomKey

    def __init__(self, term: FlossingTerm, flossing: Flossing, model: PyTree, key: RandomKey):
        """`model` is only used to check the loss, and is not stored."""
        self.weight = jnp.asarray(term.weight, flossing.target.dtype)
        self.every, self.loss = term.every, exponents if term.loss is None else interned(term.loss)
        flossing.check_loss(model, self.loss, name="term.loss")
        self.flossing, self.key = flossing, key

    def __call__(self, model: PyTree, epoch: ArrayLike) -> Float[Array, ""]:
        def term(model):
            return self.weight * self.flossing.loss(model, jax.random.fold_in(self.key, epoch), loss=self.loss)

        arrays, static = eqx.partition(model, eqx.is_array)
        due = jnp.asarray(epoch) % self.every == 0
        return lax.cond(due, lambda a: term(eqx.combine(a, static)), lambda _: jnp.zeros_like(self.weight), arrays)
