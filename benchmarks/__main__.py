"""Run the benchmarks, print the table, and write it for the documentation.

    python -m benchmarks                       all sections, about half an hour
    python -m benchmarks --only flossing,run   only these; stored results of the others are kept
    python -m benchmarks --quick               smallest sizes, as a quick check; writes nothing

Exit code 1 if a goal was missed or a section failed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from benchmarks import batches, epochs, first, large, memory, modules, runs, spectra, table
from benchmarks.turns import shared_cores
from flossing_lab.runs.provenance import measured_on

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE / "table.md"
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "optax", "equinox", "torch", "lyapax", "chaotax")
BUSY = 0.5
"""Load above which times are unreliable."""
FAILED = "failed: "

SECTIONS: dict[str, tuple[str, Callable[[epochs.Say, bool], list[table.Row]]]] = {
    "flossing": ("A flossing epoch", epochs.flossing),
    "training": ("A training epoch", epochs.training),
    "pytorch": ("PyTorch modules", modules.modules),
    "first": ("The first result", first.first),
    "batches": ("Batches", batches.batches),
    "ragged": ("Batches of many lengths", batches.ragged),
    "run": ("The whole reference run", runs.whole_run),
    "start": ("Starting again", runs.start),
    "spectrum": ("Exponents alone", spectra.spectrum),
    "large": ("Large networks", large.large),
    "memory": ("Memory", memory.memory),
    "many": ("Many networks", runs.many),
}


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, from {','.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="use the smallest sizes, as a quick check; writes nothing")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"only must name sections of {', '.join(SECTIONS)}, got {unknown[0]!r}")

    console, allowed = Console(), os.sched_getaffinity(0)
    if os.getloadavg()[0] > BUSY:
        console.print(f"[yellow]this machine is busy (load {os.getloadavg()[0]:.1f}): times are unreliable[/]")
    os.sched_setaffinity(0, shared_cores())  # inherited by child processes
    try:
        return int(any([_section(name, console, options.quick) for name in chosen]))
    finally:
        os.sched_setaffinity(0, allowed)


def _section(name: str, console: Console, quick: bool) -> bool:
    # Measures, prints and writes one section; True if a goal was missed or the section failed.
    title, measure = SECTIONS[name]
    console.rule(title)
    measured = provenance()
    rows = _attempt(title, measure, console, quick)
    console.print(_rendered(rows))
    has_failed = any(isinstance(row, table.Comparison) and row.remark.startswith(FAILED) for row in rows)
    if not quick and not (has_failed and name in read_results()):  # which keeps what was measured before
        results = read_results() | {name: measured | {"rows": [table.to_plain(row) for row in rows]}}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        PAGE.write_text(page(results), "utf-8")
    comparisons = [row for row in rows if isinstance(row, table.Comparison)]
    return any(row.reached is False or row.remark.startswith(FAILED) for row in comparisons)


def _attempt(title: str, measure: Callable, console: Console, quick: bool) -> list[table.Row]:
    # A failing section must not stop the others.
    begin = time.monotonic()

    def say(text: str):
        console.print(f"[dim]{time.monotonic() - begin:6.0f} s  {text}[/]", highlight=False)

    try:
        return measure(say, quick)
    except Exception as error:
        console.print_exception()
        return [table.Comparison(title, "", None, remark=f"{FAILED}{type(error).__name__}: {error}"[:200])]


def _rendered(rows: list[table.Row]) -> Group:
    comparisons, precisions = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    for rendered, heads in ((comparisons, table.HEAD), (precisions, table.PRECISION_HEAD)):
        for head in heads:
            rendered.add_column(head, overflow="fold", header_style="dim")
    for row in rows:
        if isinstance(row, table.Comparison):
            comparisons.add_row(*table.cells(row), style={True: "green", False: "red", None: None}[row.reached])
        else:
            precisions.add_row(*table.precision_cells(row))
    return Group(*(rendered for rendered in (comparisons, precisions) if rendered.row_count))


def provenance() -> dict[str, Any]:
    """Date, machine and versions of a measurement."""
    return measured_on(PACKAGES, len(shared_cores()))


def read_results() -> dict[str, Any]:
    """The stored results by section."""
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}


def page(results: dict[str, Any]) -> str:
    """The tables of all sections, in the form that `docs/cost.md` includes."""
    parts = ["<!-- written by make bench -->"]
    for name, (title, _) in SECTIONS.items():
        if name in results:
            found = results[name]
            rows = [table.from_plain(row) for row in found["rows"]]
            parts += [f"### {title}", _measured(found), table.markdown(rows)]
    return "\n\n".join(parts if len(parts) > 1 else [*parts, "Not measured yet: `make bench`."]) + "\n"


def _measured(found: dict[str, Any]) -> str:
    versions = found["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch") if versions.get(name))
    return f"{found['measured'][:10]}, {found['cores']} cores of {found['processor']}, {named}."


if __name__ == "__main__":
    sys.exit(main())
