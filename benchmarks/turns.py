"""Contenders, each in its own process, that take turns: ours, a peer, ours, a peer, ...

A contender is a function, named like "benchmarks.peers_torch:flossing" and imported only in its own process. A missing
peer thus costs one row, not the table, and no library's threads or settings affect another's. The function receives a
`Turn`, sets itself up, calls the turn once when it is ready, and then once after each block of work. Its return value
is sent back.
"""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 1800.0
"""Seconds after which a silent contender counts as stuck."""

REST = 0.1
"""Seconds between two turns, since idle OpenBLAS and OpenMP threads spin for a while before they sleep."""

CORES = 2
"""Cores that contenders share, if available; all thread pools respect the affinity."""


class Turn:
    """Passed to a contender; calling it ends a block of `work` units and waits for the next turn."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._began = time.perf_counter()

    def __call__(self, work: float = 1):
        seconds = time.perf_counter() - self._began
        self._connection.send(("block", (seconds, work)))
        self._connection.recv()
        self._began = time.perf_counter()


class Contender:
    """One process. `set_up` is its set-up time in seconds, `blocks` its blocks as (seconds, work).

    `reason` is one line that explains a missing result.
    """

    def __init__(
        self,
        function: str,
        *,
        environment: dict[str, str] | None = None,
        cores: Iterable[int] | None = None,
        **arguments: Any,
    ):
        self.function, self.arguments = function, arguments
        self.blocks: list[tuple[float, float]] = []
        self.set_up: float | None = None
        self.result: Any = None
        self.reason = ""
        context = multiprocessing.get_context("spawn")
        self._connection, far = context.Pipe()
        self._process = context.Process(target=_play, args=(far, function, arguments), daemon=True)
        with _surroundings(environment or {}, shared_cores() if cores is None else set(cores)):
            self._process.start()
        far.close()
        self.playing = True

    def go(self):
        """Start the next block."""
        with contextlib.suppress(OSError):  # it has died; `wait` will notice
            self._connection.send("go")

    def wait(self):
        """Wait until the block is done or the process has ended."""
        try:
            if not self._connection.poll(PATIENCE):
                raise EOFError
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            self._process.kill()
            self._process.join()
            kind, content = "error", f"the process ended (exit code {self._process.exitcode}) or was stuck"
        if kind == "block":
            if self.set_up is None:
                self.set_up = content[0]
            else:
                self.blocks.append(content)
            return
        self.playing = False
        if kind == "result":
            self.result = content
        else:
            self.reason = content
        self._process.join()

    @property
    def pace(self) -> float | None:
        """Seconds per unit of work, median over blocks."""
        return statistics.median(seconds / work for seconds, work in self.blocks) if self._valid else None

    @property
    def mean(self) -> float | None:
        """Seconds per unit of work, over all blocks together."""
        return sum(s for s, _ in self.blocks) / sum(w for _, w in self.blocks) if self._valid else None

    @property
    def _valid(self) -> bool:
        return bool(self.blocks) and not self.reason


def take_turns(contenders: Sequence[Contender]):
    """Run all contenders block by block, one at a time, until all have returned."""
    for contender in contenders:
        contender.wait()
    while any(contender.playing for contender in contenders):
        for contender in contenders:
            if contender.playing:
                time.sleep(REST)
                contender.go()
                contender.wait()


def in_process(function: str, **arguments: Any) -> Any:
    """Run a single contender and return its result; RuntimeError with its reason if it has none."""
    contender = Contender(function, **arguments)
    take_turns([contender])
    if contender.reason:
        raise RuntimeError(contender.reason)
    return contender.result


def paced(turn: Turn, *, factory: str, blocks: int, seconds: float, **arguments: Any):
    """A contender with constant work: `blocks` blocks, each with as many epochs as fit into `seconds`.

    `factory(**arguments)` returns `advance(epochs)`, which continues where it stopped. Its attribute `result`, if
    present, is sent back.
    """
    advance = load(factory)(**arguments)
    advance(1)  # compiles, fills caches
    begin = time.perf_counter()
    advance(1)
    epochs = min(200, max(1, round(seconds / (time.perf_counter() - begin))))
    turn()
    for _ in range(blocks):
        advance(epochs)
        turn(epochs)
    return getattr(advance, "result", None)


def paced_contender(factory: str, *, environment: dict[str, str] | None = None, **arguments: Any) -> Contender:
    """`paced` in its own process."""
    return Contender("benchmarks.turns:paced", environment=environment, factory=factory, **arguments)


def shared_cores() -> set[int]:
    """The cores all contenders may use."""
    return set(sorted(os.sched_getaffinity(0))[:CORES])


def load(name: str) -> Callable:
    """The function named by "module:function"."""
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def _play(connection: Connection, function: str, arguments: dict[str, Any]):
    try:
        connection.send(("result", load(function)(Turn(connection), **arguments)))
    except ModuleNotFoundError as error:
        connection.send(("error", f"{error.name} is not installed"))
    except EOFError:
        pass  # the other side has gone
    except BaseException as error:
        first = str(error).strip().splitlines() or [""]
        connection.send(("error", f"{type(error).__name__}: {first[0]}"[:200]))


@contextmanager
def _surroundings(environment: dict[str, str], cores: set[int]):
    # A child process inherits both, and needs them before its first import.
    before, allowed = dict(os.environ), os.sched_getaffinity(0)
    os.environ.update(environment)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.sched_setaffinity(0, allowed)
