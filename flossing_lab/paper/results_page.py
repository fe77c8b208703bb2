"""RESULTS.md: every claim and what is found of it, from the data of the figures alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from flossing_lab.paper.contract import Claim, FigureModule, TableModule

_HEAD = """# Results, figure by figure

Written by `flossing paper`: every number below comes from runs and calculations of this library, and is written anew
by the same command. Curves and points are medians, bands quartiles, over networks that differ by all their seeds; n is
the number of networks behind each number, from the fewest to the most. *d* is the longest lag of a task, in steps.
Verdicts follow from criteria that are stated with what is found; with few networks they are no more than that.
"""

_MANY = 12  # more missing rows than this are counted, not listed


def page(figures: Mapping[str, FigureModule], contents: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; `contents` are the data files that there are, by figure."""
    claims = {name: figures[name].claims(content["data"]) for name, content in contents.items()}
    sections = [_section(figures[name], contents.get(name), claims.get(name, [])) for name in figures]
    return "\n".join([_HEAD, _summary(figures, claims), *sections])


def _summary(figures: Mapping[str, FigureModule], claims: Mapping[str, Sequence[Claim]]) -> str:
    lines = ["## Summary", "", "| Figure | Claim | Found here | n |", "|---|---|---|---|"]
    for name in figures:
        for claim in claims.get(name, []):
            lines.append(f"| {name} | {_cell(claim.claim)} | **{claim.verdict}** | {claim.n} |")
        if not claims.get(name):
            lines.append(f"| {name} | {_cell(figures[name].TITLE)} | **not run** | 0 |")
    return "\n".join([*lines, ""])


def _section(figure: FigureModule, content: Mapping[str, Any] | None, claims: Sequence[Claim]) -> str:
    lines = [f"## {figure.NAME}: {figure.TITLE}", ""]
    if content is None:
        return "\n".join([*lines, "Not run.", ""])
    runs, calculations = content["runs"], content["calculations"]
    if runs["made"] + calculations["made"]:
        lines += [f"![{figure.TITLE}]({figure.NAME}.png)", ""]
    lines += [figure.CAPTION, ""]
    if claims:
        cells = [[each.claim, each.found, str(each.n), f"**{each.verdict}**"] for each in claims]
        lines += _table([["Claim", "Found", "n", "Verdict"], *cells])
    if isinstance(figure, TableModule) and len(table := figure.table(content["data"])) > 1:
        lines += _table(table)
    lines += [_provenance(content), ""]
    missing = content["missing"]
    if missing:
        listed = missing[:_MANY]
        more = [f"- and {len(missing) - _MANY} more such rows"] if len(missing) > _MANY else []
        lines += [f"{getattr(figure, 'MISSING', 'Not run')}:", "", *(f"- {_cell(row)}" for row in listed), *more, ""]
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *others = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [head, f"|{'---|' * len(rows[0])}", *others, ""]


def _provenance(content: Mapping[str, Any]) -> str:
    made = [
        f"{content[kind]['made']} of {content[kind]['wanted']} {kind}"
        for kind in ("runs", "calculations")
        if content[kind]["wanted"]
    ]
    where = content["provenance"]
    return (
        f"Scale {content['scale']}: {' and '.join(made)}. Last made with flossing {where['flossing']}, "
        f"JAX {where['jax']}, {where['machine']}, {where['cores']} cores."
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
