"""The table as a documentation page, one section for each kind of system."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from verification.rows import Row

TITLES = {
    "matrices": "Products of matrices",
    "maps": "Maps",
    "flows": "Flows",
    "driven": "Delays, noise, forcing, resets and responses",
    "networks": "Recurrent networks",
    "whole_spectra": "Whole spectra of large systems",
}
_HEAD = """# Verification

This page compares numbers measured by this library with exact results, published values and independent computations,
and a few with other results of our own. `make verify` writes it: {holding} of {all} rows hold (JAX {jax}, float64
unless stated otherwise, CPU).

Exponents use the natural logarithm. They are per step for maps and networks, and per unit of time for flows and for
systems with a time step. In the equations of maps and networks a prime marks the next state.

| Symbol | Meaning |
|---|---|
| ⟨·⟩ | the average along the orbit |
| D | the Jacobian of one step |
| N, T | the number of units, and the length of a run |
| F(s) | the share of exponents below s |
| D_KY, h_KS | the Kaplan-Yorke dimension, and the sum of the positive exponents |
| worst of n | n numbers are compared; the one with the largest deviation is shown |
| s.e. | the standard error of our value, from batch means in time or from independent networks |

A row holds if the size of the deviation is at most the allowed one, or if both numbers are −∞. A value for N → ∞ is
compared with finite networks, so its allowed deviation includes a term for their size, and the deviation may exceed
four standard errors.
"""
_COLUMNS = ("system", "quantity", "reference", "source", "ours", "s.e.", "deviation", "deviation / s.e.",
            "allowed deviation: reason")  # fmt: skip


def page(sections: Mapping[str, Sequence[Row]]) -> str:
    """The whole page from the rows of each module."""
    rows = [row for each in sections.values() for row in each]
    head = _HEAD.format(holding=sum(row.holds for row in rows), all=len(rows), jax=version("jax"))
    return "\n".join([head, *(_section(TITLES[name], each) for name, each in sections.items())])


def _section(title: str, rows: Sequence[Row]) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    return "\n".join([*lines, *map(_line, rows), ""])


def _line(row: Row) -> str:
    cells = (
        row.system, row.quantity, _number(row.reference), row.source,
        _number(row.ours) if row.holds else f"**fails**: {_number(row.ours)}",
        "" if row.standard_error is None else f"{row.standard_error:.1e}",
        f"{row.deviation:+.1e}" if math.isfinite(row.deviation) else "",
        "" if row.deviation_in_errors is None else f"{row.deviation_in_errors:+.1f}",
        f"{row.allowed:.1e}: {row.because}",
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else str(value).replace("inf", "∞").replace("-", "−")
