"""How long this process has spent on compiling, from JAX's own measurements."""

import functools
from typing import Any

import jax.monitoring

_EVENTS = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")


def compile_seconds() -> float:
    """Seconds since the first call, over all threads; reading a program from the cache counts as well."""
    return sum(_durations())


@functools.cache
def _durations() -> list[float]:
    found: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in _EVENTS:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found
