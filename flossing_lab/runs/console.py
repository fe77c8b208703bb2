"""The progress display of a run: a live line on a terminal, a plain line now and then in a log."""

import dataclasses
import time
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


@dataclasses.dataclass
class Status:
    """The progress of a run: epochs done and in total, the exponents of the flossing window if there is one, and other
    numbers to show, by name, each with its format."""

    epoch: int
    epochs: int
    flossing_epoch: int
    flossing_epochs: int
    exponents: np.ndarray | None = None
    shown: dict[str, tuple[float, str]] = dataclasses.field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.epoch + self.flossing_epoch

    @property
    def total(self) -> int:
        return self.epochs + self.flossing_epochs


class TimeLeft:
    """Estimates the time left from the pace of each kind of epoch, ignoring its first chunk, which compiles."""

    def __init__(self, status: Status):
        self._seen = dataclasses.replace(status)
        self._since = time.monotonic()
        self._pace: dict[str, float] = {}
        self._chunks = {"epoch": 0, "flossing_epoch": 0}

    def update(self, status: Status) -> float | None:
        """Seconds left after the chunk that led to `status`; None while the pace is unknown."""
        now = time.monotonic()
        for kind in self._chunks:
            count = getattr(status, kind) - getattr(self._seen, kind)
            if count:
                self._chunks[kind] += 1
                if self._chunks[kind] > 1 or kind not in self._pace:
                    self._pace[kind] = (now - self._since) / count
        self._seen, self._since = dataclasses.replace(status), now
        left = {"epoch": status.epochs - status.epoch, "flossing_epoch": status.flossing_epochs - status.flossing_epoch}
        if not self._pace:
            return None
        slowest = max(self._pace.values())
        return sum(count * self._pace.get(kind, slowest) for kind, count in left.items())


class Display:
    """Shows the status of successive runs. A context manager: `start` each run, `update` after each chunk."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console()
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            auto_refresh=self._live,
            disable=not self._live,
        )
        self._bar: TaskID | None = None
        self._title = ""
        self._left: TimeLeft | None = None
        self._printed = -1.0

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None):
        self._bars.stop()

    def start(self, title: str):
        """Begin a new run."""
        self._title, self._left, self._printed = title, None, -1.0
        self._bar = self._bars.add_task(title, total=None, text="compiling")
        if not self._live:
            self._console.print(f"{title}: compiling", highlight=False)

    def update(self, status: Status):
        """Show the status after a chunk."""
        if self._left is None:
            self._left = TimeLeft(status)
            left = None
        else:
            left = self._left.update(status)
        text = describe(status, left)
        assert self._bar is not None
        self._bars.update(self._bar, total=status.total, completed=status.done, text=text)
        share = status.done / status.total
        if not self._live and (share - self._printed >= 0.1 or status.done == status.total):
            self._printed = share
            self._console.print(f"{self._title}: {text}", highlight=False, soft_wrap=True)


def describe(status: Status, seconds_left: float | None) -> str:
    """A status in one line."""
    parts = [f"epoch {status.epoch}/{status.epochs}"]
    if status.flossing_epochs:
        parts.append(f"flossing {status.flossing_epoch}/{status.flossing_epochs}")
    parts += [f"{name.replace('_', ' ')} {value:{form}}" for name, (value, form) in status.shown.items()]
    if status.exponents is not None:
        parts.append(f"λ1 {status.exponents[0]:+.3f}  λ{len(status.exponents)} {status.exponents[-1]:+.2f}")
    if seconds_left is not None and status.done < status.total:
        parts.append(f"{int(seconds_left) // 60}:{int(seconds_left) % 60:02d} left")
    return "  ".join(parts)
