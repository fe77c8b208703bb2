"""Tables in Markdown."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head, *others = rows
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in [head, ["---"] * len(head), *others])


def cell(text: str) -> str:
    """Text in one line that ends no cell."""
    return " ".join(text.split()).replace("|", "\\|")
