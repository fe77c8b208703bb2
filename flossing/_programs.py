"""Outside `jit`, JAX compiles every operation on its own; for each new shape, that takes longer than their work."""

import functools

import jax

one_program = functools.partial(jax.jit, inline=True)
"""A decorator: the function is one program outside `jit`; inside, it is as if it were not decorated."""
