"""Handwritten digits, one pixel per step."""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flossing._checks import check_integer
from flossing._types import RandomKey
from flossing.tasks._trial import Score, Trial, score_classes

PIXELS = 64
TRAINING = 1437
"""Number of training images, of 1797; the other 360 are test images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """Classify a digit whose 64 pixels are shown one after the other, row by row, each for `repeat` steps.

    The 1797 images of 8 x 8 pixels come with scikit-learn, extra `flossing[digits]`. A pixel is a number in [0, 1], one
    input channel. The target at the last step is the class, 0 to 9: 10 outputs, and a baseline loss of `log(10)`. With
    `permuted`, the pixels come in another order, the same for all images, so that neighbours in the image are far apart
    in time; with `repeat`, a pixel lasts longer, and so does the sequence. This order and the split into 1437 training
    and 360 test images, made without regard to class, never change.

    Raises ValueError for a `repeat` below 1, ModuleNotFoundError, in one line, without scikit-learn.
    Source: the images are the test set of Alpaydin & Kaynak (UCI repository, 1998); pixel by pixel, and permuted, as
    Le, Jaitly & Hinton (2015) did with larger ones.

        task = fl.tasks.Digits(permuted=True)
        trial, test = task(jax.random.key(0)), task.test()
    """

    permuted: bool = False
    repeat: int = 1

    channels: ClassVar[int] = 1
    outputs: ClassVar[int] = 10
    baseline_loss: ClassVar[float] = math.log(10)

    def __post_init__(self):
        check_integer("repeat", self.repeat, least=1)
        _load()

    @property
    def steps(self) -> int:
        """T, the length of a sequence."""
        return PIXELS * self.repeat

    def __call__(self, key: RandomKey) -> Trial:
        """Draw one of the training images uniformly; inputs in JAX's default floating dtype."""
        images, labels = self._arrays(slice(0, TRAINING))
        drawn = jax.random.randint(key, (), 0, TRAINING)
        return self._sequence(images[drawn], labels[drawn])

    def test(self) -> Trial:
        """All 360 test images, stacked: `inputs` (360, T, 1), `targets` and `mask` (360, T)."""
        return jax.vmap(self._sequence)(*self._arrays(slice(TRAINING, None)))

    def score(self, outputs: Float[Array, "T 10"], trial: Trial) -> Score:
        """Cross-entropy and accuracy at the last step."""
        return score_classes(outputs, trial)

    def _arrays(self, part: slice) -> tuple[Float[Array, "B T"], Int[Array, " B"]]:
        pixels, labels = _load()
        order = np.random.RandomState(1).permutation(PIXELS) if self.permuted else np.arange(PIXELS)
        shown = np.repeat(pixels[part][:, order], self.repeat, axis=1)
        return jnp.asarray(shown, float), jnp.asarray(labels[part], int)

    def _sequence(self, pixels: Float[Array, " T"], label: Int[Array, ""]) -> Trial:
        last = jnp.arange(self.steps) == self.steps - 1
        return Trial(pixels[:, None], jnp.where(last, label, 0), last)


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    # Images (1797, 64) and labels, training images first. RandomState, since its streams never change.
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Digits needs scikit-learn: pip install 'flossing[digits]'") from None
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    return np.asarray(pixels)[order] / 16, np.asarray(labels)[order]
