"""The machine's limit: the time of an epoch's matrix products, QR decompositions and tanh alone.

Each operation is timed in several ways, and the fastest counts. These timings are contenders and take turns with the
rest.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.turns import Contender, Turn

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def contenders(**arguments) -> list[Contender]:
    """The limits with one and with two BLAS and LAPACK threads; one is often faster for small matrices."""
    environments = [dict.fromkeys(THREADS, threads) for threads in ("1", "2")]
    return [Contender("benchmarks.limits:measure", environment=e, **arguments) for e in environments]


def fastest(limits: list[Contender], *names: str) -> float | None:
    """Total seconds of the named operations, each in its fastest way over all `limits`."""
    results = [limit.result for limit in limits if limit.result is not None]
    if not results:
        return None
    return sum(min(min(result[name].values()) for result in results) for name in names)


def measure(
    turn: Turn, *, units: int, k: int, blocks: int, dtype: str = "float32", steps: int = 50, tanh: bool = False
) -> dict[str, dict[str, float]]:
    """A contender: seconds of one step of each operation, median over blocks, by operation and way.

    `forward` J Q; `backward` J^T A; `weights` A Q^T summed over steps; `qr` of an N x k matrix; `tanh` of N x k.
    """
    ways = _products(units, k, dtype, steps) | {("qr", "LAPACK"): (_qr(units, k, dtype), 1)}
    if tanh:
        ways |= _tanh(units * k, dtype, steps)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for run, _ in ways.values():
        run()
    turn()
    for _ in range(blocks):
        for way, (run, count) in ways.items():
            seconds[way].append(_quickest(run) / count)
        turn()
    found: dict[str, dict[str, float]] = {}
    for (operation, way), values in seconds.items():
        found.setdefault(operation, {})[way] = statistics.median(values)
    return found


def _quickest(run: Callable, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def _products(units: int, k: int, dtype: str, steps: int):
    # (operation, way) -> the function to time, and the number of steps it covers.
    import jax
    import jax.numpy as jnp
    from jax import lax

    jax.config.update("jax_enable_x64", dtype == "float64")
    rng = np.random.default_rng(0)
    J = np.asarray(rng.normal(size=(units, units)) / np.sqrt(units), dtype)
    # Two different stacks: NumPy computes only half of the product of a matrix with its own transpose.
    stack, other = (np.asarray(rng.normal(size=(steps, units, k)), dtype) for _ in range(2))
    flat, flat_other = (np.ascontiguousarray(np.swapaxes(s, 0, 1).reshape(units, -1)) for s in (stack, other))
    out, square = np.empty((units, k), dtype), np.empty((units, units), dtype)

    def loop(product):
        def run():
            for a, b in zip(stack, other, strict=True):
                product(a, b)

        return run, steps

    def chain(matrix):
        # Each product depends on the previous one, as in an epoch.
        scan = jax.jit(lambda m, a: lax.scan(lambda a, _: (m @ a, None), a, length=steps)[0])
        m, a = jnp.asarray(matrix), jnp.asarray(stack[0])
        return lambda: scan(m, a).block_until_ready(), steps

    @jax.jit
    def add(stack, other):
        return lax.scan(lambda g, ab: (g + ab[0] @ ab[1].T, None), jnp.zeros((units, units), dtype), (stack, other))[0]

    contract = jax.jit(lambda a, b: jnp.einsum("tik,tjk->ij", a, b))
    device = jnp.asarray(stack), jnp.asarray(other)
    return {
        ("forward", "NumPy"): loop(lambda a, _: np.matmul(J, a, out=out)),
        ("forward", "JAX"): chain(J),
        ("backward", "NumPy"): loop(lambda a, _: np.matmul(J.T, a, out=out)),
        ("backward", "JAX"): chain(J.T.copy()),
        ("weights", "NumPy"): loop(lambda a, b: np.matmul(a, b.T, out=square)),
        ("weights", "NumPy, all steps in one"): (lambda: np.matmul(flat, flat_other.T, out=square), steps),
        ("weights", "JAX"): (lambda: add(*device).block_until_ready(), steps),
        ("weights", "JAX, all steps in one"): (lambda: contract(*device).block_until_ready(), steps),
    }


def _qr(units: int, k: int, dtype: str) -> Callable:
    from scipy.linalg import get_lapack_funcs

    a = np.asfortranarray(np.random.default_rng(0).normal(size=(units, k)), dtype)
    geqrf, orgqr = get_lapack_funcs(("geqrf", "orgqr"), (a,))
    work = int(geqrf(a, lwork=-1)[2][0])

    def run():
        factors, tau, _, _ = geqrf(a, lwork=work)
        orgqr(factors, tau, lwork=work, overwrite_a=True)

    return run


def _tanh(size: int, dtype: str, steps: int):
    import jax
    import jax.numpy as jnp

    x = np.asarray(np.random.default_rng(0).normal(size=(steps, size)), dtype)
    out, device, tanh = np.empty_like(x), jnp.asarray(x), jax.jit(jnp.tanh)
    return {
        ("tanh", "NumPy"): (lambda: np.tanh(x, out=out), steps),
        ("tanh", "JAX"): (lambda: tanh(device).block_until_ready(), steps),
    }
