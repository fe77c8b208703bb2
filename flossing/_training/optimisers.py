"""Optimisers of optax: any of them, also those that want the loss, or a function of the parameters, in their update."""

from typing import Any

import optax

from flossing._runtime.interning import interned


def read_optimiser(optimiser: Any) -> optax.GradientTransformationExtraArgs:
    """`optimiser` in the form that takes `value`, `grad` and `value_fn`; ValueError for anything else than optax's."""
    if not isinstance(optimiser, optax.GradientTransformation):
        name = getattr(optimiser, "__name__", None)
        got = f"the function {name}: call it, {name}(1e-3)" if callable(optimiser) and name else repr(optimiser)
        if isinstance(optimiser, optax.MultiSteps):
            got = "a MultiSteps: pass its gradient_transformation()"
        raise ValueError(f"optimiser must be an optax GradientTransformation such as optax.adam(1e-3), got {got}")
    return interned(optax.with_extra_args_support(optimiser))
