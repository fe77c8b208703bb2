"""Flossing as a term of the loss of training: how much of it, and how often. For JAX and PyTorch; imports neither."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flossing._arguments import check_integer, check_loss, check_positive


@dataclasses.dataclass(frozen=True)
class FlossingTerm:
    """Flossing as a term of the loss of training: `weight` times a flossing loss, added in every `every`-th step.

        L = L_task + weight mean_i (lambda_i - target_i)^2

    One optimiser then minimises both losses, and if you clip gradients, you clip their sum. Blocks of flossing, in
    contrast, keep flossing and training apart; both may be combined. A step with the term costs as much as one of
    training and one of flossing.

    - `weight`: how much the term counts. The default suits losses of the order of 1, such as a cross-entropy.
    - `every`: the term is added in the training steps `every`, `2 * every` and so on.
    - `loss`: a function of what was measured, as for `floss`; by default that of the paper, above:
      `flossing.losses.exponents`, or `flossing.pytorch.losses.exponents`.

    Raises ValueError for a weight that is not positive, and for `every` below 1.

        flosser = fl.Flosser(k=32, window=60, term=fl.FlossingTerm(weight=3.0))
    """

    weight: float = 10.0
    every: int = 5
    loss: Callable[[Any], Any] | None = None

    def __post_init__(self):
        check_positive("weight", self.weight)
        check_integer("every", self.every, least=1)


def check_term(term: Any, home: str, elsewhere: str):
    """Raise ValueError unless this is None or a `FlossingTerm` whose loss is not one of the other ecosystem's."""
    if term is None:
        return
    if not isinstance(term, FlossingTerm):
        raise ValueError(f"term must be a FlossingTerm, such as fl.FlossingTerm(10.0, every=5), got term={term!r}")
    if term.loss is not None:
        check_loss(term.loss, home, elsewhere, name="term.loss")
