"""Rows, and the table for the terminal, for the documentation and for JSON."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

Unit = Literal["s", "B", "/h", ""]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Ours against one peer: times, bytes or counts, where less is better, or a throughput, where more is better.

    - `limit`: the time of the arithmetic alone on this machine.
    - `error`: relative error of our gradient, median and maximum over a sample of epochs.
    - the goal, if any: `least_ratio`; `most_distance` from the limit; or `most` for our own value.
    - `remark`: how it was measured, or one line on why something is missing.
    """

    work: str
    unit: Unit
    ours: float | None
    peer: str = ""
    theirs: float | None = None
    limit: float | None = None
    error: tuple[float, float] | None = None
    least_ratio: float | None = None
    most_distance: float | None = None
    most: float | None = None
    remark: str = ""

    @property
    def ratio(self) -> float | None:
        """The factor by which ours is better."""
        better, worse = (self.theirs, self.ours) if self.unit == "/h" else (self.ours, self.theirs)
        return worse / better if better and worse is not None else None

    @property
    def distance(self) -> float | None:
        """Ours in multiples of the limit."""
        return self.ours / self.limit if self.limit and self.ours is not None else None

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.least_ratio is not None:
            return f"ratio ≥ {self.least_ratio:.3g}"
        if self.most_distance is not None:
            return f"≤ {self.most_distance:g} of the limit"
        return "" if self.most is None else f"ours ≤ {self.most:g}"

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal or without a measurement."""
        if self.least_ratio is not None:
            return None if self.ratio is None else self.ratio >= self.least_ratio
        if self.most_distance is not None:
            return None if self.distance is None else self.distance <= self.most_distance
        return None if self.most is None or self.ours is None else self.ours <= self.most


@dataclasses.dataclass(frozen=True)
class Precision:
    """Errors of our float32 gradient along one flossing phase: relative, in the 2-norm, median and maximum.

    `automatic`: at the chosen interval, against QR after every step in float32, over `samples` epochs. `float64` and
    `float64_every_step`: at the chosen interval and with QR after every step, each against QR after every step in
    float64, over the `bounded` samples with lambda_1 T < 5 (beyond that, float32 gradients mean little).
    """

    work: str
    intervals: tuple[float, int, int]
    samples: int
    automatic: tuple[float, float]
    bounded: int
    float64: tuple[float, float] | None
    float64_every_step: tuple[float, float] | None


Row = Comparison | Precision
HEAD = ("work", "ours", "peer", "theirs", "ratio", "limit", "ours / limit", "gradient error", "goal", "remark")
PRECISION_HEAD = (
    "flossing phase",
    "interval: median (least to most)",
    "epochs sampled",
    "gradient error: chosen interval, relative to QR after every step (both float32)",
    "epochs with λ₁T < 5",
    "gradient error: float32 at the chosen interval, relative to float64",
    "gradient error: float32 with QR after every step, relative to float64",
)


def cells(row: Comparison) -> tuple[str, ...]:
    """A row as text, in the order of `HEAD`."""
    verdict = {True: ": reached", False: ": missed", None: ": not known"}[row.reached] if row.goal else ""
    return (
        row.work,
        show(row.ours, row.unit),
        row.peer,
        show(row.theirs, row.unit) if row.peer else "",
        (f"{row.ratio:.2f}" if row.ratio is not None else "-") if row.peer else "",
        show(row.limit, row.unit) if row.limit is not None else "",
        f"{row.distance:.2f}" if row.distance is not None else "",
        _pair(row.error) if row.error is not None else "",
        row.goal + verdict,
        row.remark,
    )


def precision_cells(row: Precision) -> tuple[str, ...]:
    """A row as text, in the order of `PRECISION_HEAD`."""
    median, least, most = row.intervals
    return (
        row.work,
        f"{median:g} ({least} to {most})",
        str(row.samples),
        _pair(row.automatic),
        str(row.bounded),
        _pair(row.float64),
        _pair(row.float64_every_step),
    )


def show(value: float | None, unit: Unit) -> str:
    """A value with its unit, three digits."""
    if value is None or not math.isfinite(value):
        return "-"
    scales = {
        "s": ((60, "min", 1 / 60), (1, "s", 1), (1e-3, "ms", 1e3), (0, "µs", 1e6)),
        "B": ((2**30, "GiB", 2**-30), (2**20, "MiB", 2**-20), (0, "KiB", 2**-10)),
        "/h": ((0, "an hour", 1),),
        "": ((0, "", 1),),
    }[unit]
    name, factor = next((name, factor) for least, name, factor in scales if abs(value) >= least)
    return f"{float(f'{value * factor:.3g}'):g} {name}".strip()


def _pair(values: tuple[float, float] | None) -> str:
    return "-" if values is None else f"{values[0]:.1e}, at most {values[1]:.1e}"


def markdown(rows: Sequence[Row]) -> str:
    """The tables as Markdown: comparisons, then precision, each if there are any."""
    comparisons = [cells(row) for row in rows if isinstance(row, Comparison)]
    precisions = [precision_cells(row) for row in rows if isinstance(row, Precision)]
    tables = [(HEAD, comparisons), (PRECISION_HEAD, precisions)]
    return "\n\n".join(_markdown(head, body) for head, body in tables if body)


def _markdown(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    # Empty columns are dropped.
    used = [i for i in range(len(head)) if any(line[i] for line in body)]
    lines = [[head[i] for i in used], ["---"] * len(used), *([line[i] for i in used] for line in body)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_plain(row: Row) -> dict:
    """A row for JSON, with its derived values."""
    plain = {"kind": type(row).__name__.lower()} | dataclasses.asdict(row)
    if isinstance(row, Comparison):
        plain |= {"ratio": row.ratio, "distance": row.distance, "goal": row.goal, "reached": row.reached}
    return plain


def from_plain(plain: dict) -> Row:
    """The inverse of `to_plain`."""
    kind = {"comparison": Comparison, "precision": Precision}[plain["kind"]]
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{n: tuple(plain[n]) if isinstance(plain[n], list) else plain[n] for n in names})
