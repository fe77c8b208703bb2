"""Progress of a long call: a bar on a terminal, a line every ten seconds elsewhere; needs no JAX."""

import sys
import time
from typing import Any

LEAST = 10.0
"""Calls that take fewer seconds than this show nothing where there is no terminal."""

EVERY = {True: 0.2, False: 10.0}
"""Seconds between two updates, on a terminal and elsewhere."""

WIDTH = 24


class Progress:
    """Shows how many of `total` epochs are done. The first epochs, which include compilation, do not count as time."""

    def __init__(self, name: str, total: int, *, shown: bool = True, stream: Any = None):
        self._name, self._total = name, total
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown and self._stream is not None
        self._is_terminal = self._shown and getattr(self._stream, "isatty", bool)()
        self._first: tuple[float, int] | None = None
        self._announced, self._last, self._open = False, -float("inf"), False
        self._since = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object):
        if self._open:  # what is printed next starts on its own line
            self._write("")
            self._open = False

    def update(self, done: int, note: str = ""):
        """After `done` epochs; `note` says what they measured."""
        if not self._shown:
            return
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
            return
        each = (now - self._first[0]) / (done - self._first[1])
        if not self._announced:
            self._announced = True
            if each * self._total < (EVERY[True] if self._is_terminal else LEAST):
                self._shown = False
                return
            began = f"began in {_seconds(self._first[0] - self._since)}"
            cost = f"{_seconds(each)} per epoch, {_seconds(each * self._total)} for {self._total}"
            self._write(f"{self._name}: {began}, then {cost}")
        if done < self._total and now - self._last < EVERY[self._is_terminal]:
            return
        self._last = now
        text = f"{self._name}: {done} of {self._total} epochs, {_seconds(each * (self._total - done))} left, {note}"
        if not self._is_terminal:
            self._write(text)
            return
        filled = WIDTH * done // self._total
        self._stream.write(f"\r\x1b[K{'#' * filled}{'.' * (WIDTH - filled)} {text}")
        self._stream.flush()
        self._open = True

    def _write(self, text: str):
        self._stream.write(text + "\n")
        self._stream.flush()


def progress_note(loss: Any, exponents: Any) -> str:
    """What a flossing epoch measured: its loss, and its exponents (k,) or (B, k), the first and the last of each."""
    largest, smallest = float(exponents[..., 0].max()), float(exponents[..., -1].min())
    return f"loss {float(loss):.3g}, exponents {largest:+.3g} to {smallest:+.3g}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
