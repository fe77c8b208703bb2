"""The same work in plain JAX, as a competent user would first write it, and in two libraries for spectra."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.starts import FLOSSED, flossing_start, training_start

CLIP = 0.03


def flossing_loss(parameters, h, basis, inputs, transient: int):
    """Mean squared exponent over the steps after `transient`."""
    J, ws, b = (parameters[name] for name in FLOSSED)

    def step(carry, s):
        h, q = carry
        h = jnp.tanh(J @ h + ws @ s / s.size + b)
        q, r = jnp.linalg.qr((1 - h**2)[:, None] * (J @ q))
        return (h, q), jnp.log(jnp.abs(jnp.diagonal(r)))

    _, growth = lax.scan(step, (h, basis), inputs)
    return jnp.mean(jnp.mean(growth[transient:], axis=0) ** 2)


def task_loss(parameters, inputs, targets, mask):
    """Binary cross-entropy over batch and scored steps, and the accuracy."""
    J, ws, b = (parameters[name] for name in FLOSSED)

    def step(x, s):
        x = jnp.tanh(x) @ J.T + s @ ws.T / s.shape[1] + b[None, :]
        return x, x

    _, xs = lax.scan(step, parameters["x0"], jnp.swapaxes(inputs, 0, 1))
    logits = (xs @ parameters["wr"].T + parameters["offset"][None, None, :])[:, :, 0].T
    weight = jnp.broadcast_to(mask[None, :], logits.shape).astype(logits.dtype)
    losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    correct = ((logits >= 0) == (targets > 0.5)).astype(logits.dtype)
    return (losses * weight).sum() / weight.sum(), (correct * weight).sum() / weight.sum()


def clip_each(gradients):
    """Clip the norm of each array's gradient separately; returns the gradients and the norms before clipping."""
    norms = {name: jnp.linalg.norm(g.ravel()) for name, g in gradients.items()}
    return {name: g * jnp.minimum(1, CLIP / jnp.maximum(norms[name], 1e-30)) for name, g in gradients.items()}, norms


def flossing(*, units: int, steps: int, k: int, transient: int):
    """`advance(epochs)` for a flossing phase."""
    numbers = flossing_start(units, k)
    h, basis = jnp.asarray(numbers["h"]), jnp.asarray(numbers["basis"])
    optimiser = optax.adam(1e-3)

    @jax.jit
    def epoch(parameters, state, key):
        bits = jax.random.bernoulli(key, shape=(steps, 1)).astype(h.dtype)
        loss, gradient = jax.value_and_grad(flossing_loss)(parameters, h, basis, bits, transient)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, (loss, optax.tree.norm(gradient))

    parameters = {name: jnp.asarray(numbers[name]) for name in FLOSSED}
    return _advance(epoch, parameters, optimiser.init(parameters))


def training(*, units: int, batch: int, steps: int, delay: int):
    """`advance(epochs)` for training on a temporal XOR."""
    parameters = jax.tree.map(jnp.asarray, training_start(units, batch))
    optimiser = optax.adam(1e-3)
    mask = jnp.arange(1, steps + 1) >= 2 * delay

    @jax.jit
    def epoch(parameters, state, key):
        bits = jax.random.bernoulli(key, shape=(batch, steps + 2 * delay)).astype(parameters["J"].dtype)
        targets = (bits[:, delay : delay + steps] + bits[:, :steps]) % 2
        value_and_grad = jax.value_and_grad(task_loss, has_aux=True)
        (loss, accuracy), gradient = value_and_grad(parameters, bits[:, 2 * delay :, None], targets, mask)
        gradient, norms = clip_each(gradient)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, (loss, accuracy, norms)

    return _advance(epoch, parameters, optimiser.init(parameters))


def _advance(epoch, parameters, state):
    key, done = jax.random.key(0), 0

    def advance(epochs):
        nonlocal parameters, state, done
        for _ in range(epochs):
            parameters, state, record = epoch(parameters, state, jax.random.fold_in(key, done))
            done += 1
            jax.tree.map(float, record)  # as in a loop that prints or stores its loss

    return advance


def lyapax_spectrum(*, units: int, k: int, steps: int, transient: int):
    """`advance(calls)` for lyapax's spectrum, with the same initial state, basis and transient as ours."""
    jax.config.update("jax_enable_x64", True)
    import lyapax

    @jax.jit
    def measure(J, b, h, basis):
        # A basis can only be passed in a checkpoint; a resumed run has no transient, so the transient runs first.
        blank = lyapax.LyapunovCheckpoint(h, basis, jnp.zeros(k), jnp.zeros(()))
        run = functools.partial(lyapax.lyapunov_spectrum, lambda h: jnp.tanh(J @ h + b), h, 1.0, k=k)
        if transient:
            settled = run(transient, resume=blank).checkpoint
            blank = lyapax.LyapunovCheckpoint(settled.state, settled.Y, jnp.zeros(k), jnp.zeros(()))
        return run(steps - transient, resume=blank).exponents

    return _repeat(measure, units, k)


def chaotax_spectrum(*, units: int, k: int, steps: int, transient: int):
    """`advance(calls)` for chaotax's spectrum, likewise.

    The released version cannot be jitted, since it computes a size with jnp.prod, so every call compiles. Here that
    line uses NumPy instead; `result` holds the seconds of a call to the released version.
    """
    jax.config.update("jax_enable_x64", True)
    from chaotax import _lyapunov

    def measure(J, b, h, basis):
        return _lyapunov.lyapunov_spectrum(
            lambda h: jnp.tanh(J @ h + b),
            rollout_steps=steps - transient,
            warmup_steps=0,
            discard_steps=transient,
            num_exponents=k,
        )(h, basis.T)

    released = _repeat(measure, units, k)
    released(1)
    begin = time.perf_counter()
    released(1)
    seconds = time.perf_counter() - begin
    _lyapunov.jnp = _NumpyForShapes()
    advance = _repeat(jax.jit(measure), units, k)
    advance.result["as_released"] = seconds
    return advance


class _NumpyForShapes:
    array, prod = staticmethod(np.array), staticmethod(np.prod)

    def __getattr__(self, name):
        return getattr(jnp, name)


def _repeat(measure, units: int, k: int):
    numbers = flossing_start(units, k, dtype="float64")
    arguments = [jnp.asarray(numbers[name]) for name in ("J", "b", "h", "basis")]

    def advance(calls):
        for _ in range(calls):
            advance.result["exponents"] = np.asarray(measure(*arguments))

    advance.result = {}
    return advance
