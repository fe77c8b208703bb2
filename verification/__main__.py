"""Run all checks, print each row, and write the table as a documentation page and as JSON."""

import argparse
import dataclasses
import json
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
from rich.console import Console

PAGE = Path(__file__).parent.parent / "docs" / "verification.md"
TABLE = Path(__file__).parent / "results.json"


def main() -> int:
    """Exit code 1 if a row fails."""
    jax.config.update("jax_enable_x64", True)
    from verification import driven, flows, maps, matrices, networks, whole_spectra

    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="run only the checks that take seconds; writes nothing")
    arguments = parser.parse_args()
    console, rows, start = Console(), [], time.monotonic()
    modules = (matrices, maps, flows, driven, networks, whole_spectra)
    for module in modules:
        for check in module.FAST if arguments.fast else (*module.FAST, *module.SLOW):
            for row in check():
                rows.append(row)
                console.print(_line(row), highlight=False, soft_wrap=True)
    failed = [row for row in rows if not row.holds]
    seconds = time.monotonic() - start
    console.print(f"{len(rows) - len(failed)} of {len(rows)} rows hold, {seconds:.0f} s", highlight=False)
    if not arguments.fast:
        TABLE.write_text(json.dumps([_plain(row) for row in rows], indent=1, ensure_ascii=False) + "\n", "utf-8")
        PAGE.write_text(_page(rows), "utf-8")
        console.print(f"page   {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")
    return bool(failed)


def _line(row) -> str:
    colour = "green" if row.holds else "red bold"
    verdict = "holds" if row.holds else "FAILS"
    return (
        f"[{colour}]{verdict}[/]  {row.system}: {row.quantity}   {row.ours:+.6g} against {row.reference:+.6g}, "
        f"off by {row.deviation:+.1e}" + (f" ({row.deviation_in_errors:+.1f} s.e.)" if row.standard_error else "")
    )


def _plain(row) -> dict:
    values = dataclasses.asdict(row) | {"holds": row.holds}
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _page(rows) -> str:
    holding = sum(row.holds for row in rows)
    head = f"""# Verification

Our exponents compared with exact results and published values. Natural logarithms; per step for maps and networks, per
unit of time for flows. This page is written by `make verify`: {holding} of {len(rows)} rows hold (JAX
{version("jax")}, float64 unless stated otherwise, CPU). "s.e." is the standard error of our value, from batch means in
time or from independent networks. A row holds if the deviation is at most the value in the last column.

| system | quantity | reference | source | ours | s.e. | deviation | in s.e. | verdict | allowed deviation and reason |
|---|---|---|---|---|---|---|---|---|---|
"""
    return head + "\n".join(map(_cells, rows)) + "\n"


def _cells(row) -> str:
    error = "" if row.standard_error is None else f"{row.standard_error:.1e}"
    inside = "" if row.deviation_in_errors is None else f"{row.deviation_in_errors:+.1f}"
    cells = (
        row.system, row.quantity, f"{row.reference:.6g}", row.source, f"{row.ours:.6g}", error, f"{row.deviation:+.1e}",
        inside, "holds" if row.holds else "**fails**", f"{row.allowed:.1e}: {row.because}",
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
