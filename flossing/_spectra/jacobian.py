"""The long-term Jacobian T_t = D_t ... D_1 and its singular values, however far apart they are.

T maps a perturbation of the first state to that of the t-th; its transpose carries a gradient from the loss at t back
to the start. Its condition number grows like exp((lambda_1 - lambda_N) t), soon beyond any floating-point range, so
T is never formed. With D_t Q_{t-1} = Q_t R_t from an orthogonal Q_0 on,

    T_t = Q_t P_t Q_0^T,        P_t = R_t ... R_1 = diag(2^e) W,

where each row of W has its own integer exponent e, so that scaling is exact and no row under- or overflows. Rounding
perturbs W row by row. For any e, this moves the logarithm of each singular value by about the condition number of W
times the unit of rounding (Demmel & Veselic 1992), as does each step below. One-sided Jacobi rotates pairs of
rows until all are orthogonal: their norms are the singular values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from flossing._checks import check_integer, check_leaves, is_concrete, namespace
from flossing._linalg.graded import Graded, dot, factor, log_norms, log_singular_values, multiply, normalise
from flossing._linalg.mesh import varying
from flossing._linalg.precision import in_full_precision
from flossing._messages import escape_message
from flossing._runtime.compiled import compiled
from flossing._tangent.problem import Problem, initial_basis, set_up
from flossing._types import AnyArray, Input, RandomKey, State


class LongTermJacobian(eqx.Module):
    """Singular values of T_t = D_t ... D_1, the product of the Jacobians of a step along an orbit.

    - `horizons` (H,): the numbers of steps t.
    - `log_singular_values` (H, N): natural logarithms, descending; -inf where T_t is singular.

    Under `jax.vmap` arrays have a leading axis B of sequences, and so do the results of the methods. Arrays of JAX; of
    NumPy from `flossing.pytorch`.
    """

    horizons: Int[AnyArray, "*B H"]
    log_singular_values: Float[AnyArray, "*B H N"]

    def log_condition(self, k: int | None = None) -> Float[AnyArray, "*B H"]:
        """log sigma_1 - log sigma_k of each T_t (H,), k from 1 to N: the condition number in the first k directions.

        All N directions by default. Natural logarithm; inf where T_t is singular in these directions.
        """
        size = int(self.log_singular_values.shape[-1])
        k = size if k is None else k
        check_integer("k", k, least=1, most=size, note=f" (the state has {size} real coordinates)")
        first, last = self.log_singular_values[..., 0], self.log_singular_values[..., k - 1]
        xp = namespace(last)
        return xp.where(xp.isneginf(last), xp.inf, first - last)

    def predicted_log_condition(self, exponents: ArrayLike, k: int) -> Float[AnyArray, "*B H"]:
        """(lambda_1 - lambda_k) t: the logarithm of the condition number that Lyapunov exponents predict.

        `exponents` (K,), per step and descending as in a `Spectrum`, `k` from 1 to K. **Source:** Engelken (2023).
        """
        check_leaves("exponents", exponents)
        if jnp.ndim(exponents) != 1:
            raise ValueError(f"exponents must have shape (K,), got shape {jnp.shape(exponents)}")
        dtype = self.log_singular_values.dtype
        rates = namespace(self.log_singular_values).asarray(exponents, dtype)
        check_integer("k", k, least=1, most=rates.size, note=f" (there are {rates.size} exponents)")
        return (rates[0] - rates[k - 1]) * self.horizons.astype(dtype)


def long_term_jacobian(
    model: Any,
    inputs: Input,
    *,
    state: State = None,
    horizons: Sequence[int] | np.ndarray | Array | None = None,
    key: RandomKey | None = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> LongTermJacobian:
    """Measure all singular values of T_t = D_t ... D_1 along `inputs`, from `state`, at each of `horizons`.

    **Arguments:**

    - `model`, `inputs`, `state`, `step`, `steps`: as in [`lyapunov_spectrum`][]. All N tangents are pushed.
    - `horizons`: the times t at which T_t is measured, increasing integers from 1 to T, not traced; all by default.
      Each costs about N^2 row operations; steps after the last one are not run.
    - `key`: draws the orthogonal Q_0; `jax.random.key(0)` by default. It affects the result only by rounding.

    **Returns:** a [`LongTermJacobian`][]: natural logarithms, dtype that of the state.

    T may have any condition number, as long as those of the single steps, with rows scaled to one size, stay well below
    1e16 (1e7 in float32). A step with a larger one counts as singular. One singular step makes T singular, with
    log sigma = -inf for as many directions as it loses. T itself still amplifies rounding in its factors: log sigma_i
    moves by about that rounding divided by the cosine, at any step, between the i-th direction pushed forward from the
    start and the one pulled back from the end; one unlucky step is enough. For a batch use `jax.vmap`. Reverse-mode
    differentiation is not supported; for gradients of exponents use `lyapunov_spectrum`.

    **Raises:** `ValueError`, in one line, as `lyapunov_spectrum` does, and for invalid `horizons`.

    **Source:** Engelken (NeurIPS 2023) section 3; Oliveira & Stewart (2000); Demmel & Veselic (1992); Drmac & Veselic
    (2008).

        jacobian = fl.long_term_jacobian(cell, inputs, horizons=[1, 10, 100])
        print(jacobian.log_condition())
    """
    problem = set_up(model, inputs, state=state, step=step, steps=steps)
    stops = _check_horizons(horizons, problem.length)
    basis = initial_basis(problem.coordinates, key=key)
    logs, last = compiled(product_flow, problem)(basis, jnp.asarray(stops))
    if is_concrete(logs):
        lost = jnp.isnan(logs).any(1) | jnp.isposinf(logs).any(1)
        if lost.any():
            raise ValueError(escape_message(f"at horizon {stops[int(lost.argmax())]}"))
        check_leaves("the last state", last)
    return LongTermJacobian(jnp.asarray(stops), logs)


def long_term_jvp(
    model: Any,
    inputs: Input,
    vectors: ArrayLike,
    *,
    state: State = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> tuple[Float[Array, " m"], Float[Array, "N m"]]:
    """Apply T = D_T ... D_1 to vectors: how perturbations of the first state arrive at the last.

    **Arguments:**

    - `model`, `inputs`, `state`, `step`, `steps`: as in [`lyapunov_spectrum`][].
    - `vectors` (N, m): perturbations of the first state, as columns.

    **Returns:** log norms (m,), natural logarithm, and unit directions (N, m) of T v; -inf and 0 for a vector that
    vanishes. Columns are rescaled by powers of two after each step, so they neither underflow nor overflow.

    **Raises:** `ValueError`, in one line, as `lyapunov_spectrum`.

        log_norms, directions = fl.long_term_jvp(cell, inputs, jnp.eye(64))
    """
    return _apply(forward_flow, model, inputs, vectors, state=state, step=step, steps=steps)


def long_term_vjp(
    model: Any,
    inputs: Input,
    vectors: ArrayLike,
    *,
    state: State = None,
    step: Callable | None = None,
    steps: int | None = None,
) -> tuple[Float[Array, " m"], Float[Array, "N m"]]:
    """Apply the transpose of T = D_T ... D_1 to vectors: how gradients at the last state arrive at the first.

    Arguments, results and errors are those of [`long_term_jvp`][]; `vectors` (N, m) are gradients with respect to the
    last state. It differentiates each step in reverse mode along the stored orbit (T x N numbers).

        log_norms, directions = fl.long_term_vjp(cell, inputs, jnp.eye(64))
    """
    return _apply(backward_flow, model, inputs, vectors, state=state, step=step, steps=steps)


def _apply(flow: Callable, model: Any, inputs: Input, vectors: ArrayLike, **options: Any):
    problem = set_up(model, inputs, **options)
    check_leaves("vectors", vectors)
    shape, size = jnp.shape(vectors), problem.coordinates.size
    if len(shape) != 2 or shape[0] != size or shape[1] == 0:
        raise ValueError(f"vectors must have shape ({size}, m) with m at least 1 for this state, got shape {shape}")
    vectors = varying(jnp.asarray(vectors, problem.coordinates.dtype), problem.start)
    logs, directions, last = compiled(flow, problem)(vectors)
    if is_concrete(directions):
        check_leaves("the last state", last)
        if not jnp.isfinite(directions).all():
            raise ValueError(escape_message("in the products"))
    return logs, directions


def _check_horizons(horizons: Any, length: int) -> np.ndarray:
    legal = f"horizons must be increasing integers from 1 to {length} (the run has {length} steps)"
    if horizons is None:
        return np.arange(1, length + 1, dtype=np.int32)
    if isinstance(horizons, Tracer):
        raise ValueError(f"{legal} known outside jit, got a traced array")
    values = np.asarray(horizons)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{legal}, a sequence of at least one, got horizons={horizons!r}")
    if values.dtype.kind not in "iu":
        raise ValueError(f"{legal}, got dtype {values.dtype}")
    wrong = (values < 1) | (values > length) | np.concatenate([[False], values[1:] <= values[:-1]])
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(f"{legal}, got horizons[{index}]={values[index]}")
    return values.astype(np.int32)


@in_full_precision
def product_flow(
    problem: Problem, basis: Float[Array, "N N"], stops: Int[Array, " H"]
) -> tuple[Float[Array, "H N"], State]:
    """The engine of `long_term_jacobian`: log singular values at each stop, and the last state. Checks nothing."""

    def advance(t, carry):
        point, q, product = carry
        input = jax.tree_util.tree_map(lambda s: s[t], problem.inputs)
        point, a = problem.push(point, q.T, input)
        q, r = factor(a.T)
        return point, q, multiply(r, product)

    def measure(carry, bounds):
        start, stop = bounds
        carry = lax.fori_loop(start, stop, advance, carry)
        return carry, log_singular_values(carry[-1])

    starts = jnp.concatenate([jnp.zeros_like(stops[:1]), stops[:-1]])
    size, dtype = problem.coordinates.size, problem.coordinates.dtype
    identity = Graded(jnp.zeros(size, jnp.int32), jnp.eye(size, dtype=dtype))
    basis, identity = varying((basis, identity), problem.start)
    (point, _, _), logs = lax.scan(measure, (problem.start, basis, identity), (starts, stops))
    return logs, problem.state(point)


@in_full_precision
def forward_flow(problem: Problem, vectors: Float[Array, "N m"]):
    """The engine of `long_term_jvp`: log norms, unit directions and the last state. Checks nothing."""

    def push(carry, input):
        point, v = carry
        point, a = problem.push(point, v.rows, input)
        return (point, normalise(v.exponents, a)), None

    (point, v), _ = lax.scan(push, (problem.start, _columns(vectors)), problem.inputs, length=problem.length)
    return *_polar(v), problem.state(point)


@in_full_precision
def backward_flow(problem: Problem, vectors: Float[Array, "N m"]):
    """The engine of `long_term_vjp`: log norms, unit directions and the last state. Checks nothing."""
    before, end = problem.orbit()

    def pull(v, at):
        point, input = at
        return normalise(v.exponents, jax.vmap(problem.pull(point, input))(v.rows)), None

    v, _ = lax.scan(pull, _columns(vectors), (before, problem.inputs), length=problem.length, reverse=True)
    return *_polar(v), problem.state(end)


def _columns(vectors: Float[Array, "N m"]) -> Graded:
    return normalise(jnp.zeros(vectors.shape[1], jnp.int32), vectors.T)


def _polar(v: Graded) -> tuple[Float[Array, " m"], Float[Array, "N m"]]:
    norms = jnp.sqrt(dot(v.rows, v.rows))[:, None]
    return log_norms(v), (v.rows / jnp.where(norms == 0, 1, norms)).T
