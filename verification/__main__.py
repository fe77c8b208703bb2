"""Run all checks, print each row, and write the table as a documentation page and as JSON."""

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path

import jax
from rich.console import Console

PAGE = Path(__file__).parent.parent / "docs" / "verification.md"
TABLE = Path(__file__).parent / "results.json"


def main() -> int:
    """Exit code 1 if a row fails."""
    jax.config.update("jax_enable_x64", True)
    from verification.modules import MODULES
    from verification.page import page

    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="run only the checks that take seconds; writes nothing")
    arguments = parser.parse_args()
    console, sections, start = Console(), {}, time.monotonic()
    for module in MODULES:
        found = sections.setdefault(module.__name__.rpartition(".")[2], [])
        for check in module.FAST if arguments.fast else (*module.FAST, *module.SLOW):
            for row in check():
                found.append(row)
                console.print(_line(row), highlight=False, soft_wrap=True)
    rows = [row for found in sections.values() for row in found]
    failed = [row for row in rows if not row.holds]
    seconds = time.monotonic() - start
    console.print(f"{len(rows) - len(failed)} of {len(rows)} rows hold, {seconds:.0f} s", highlight=False)
    if not arguments.fast:
        TABLE.write_text(json.dumps([_plain(row) for row in rows], indent=1, ensure_ascii=False) + "\n", "utf-8")
        PAGE.write_text(page(sections), "utf-8")
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


if __name__ == "__main__":
    sys.exit(main())
